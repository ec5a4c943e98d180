//! The service: a router behind a [`Gate`], and the calls that the gate wants made.

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use meshgate::boundary::peer::Hop;
use meshgate::callout::Failure;
use meshgate::denial::Reply;
use meshgate::embed::{Call, Context, Decision, Gate, Head};
use meshgate::headers::Edit;
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// What a sidecar would be told. The names of clusters mean what [`fetch`] takes them for.
pub fn config() -> Value {
    json!({
        "mode": "gateway",
        "providers": {"auth": {
            "issuer": "youtube-clone-auth",
            "audiences": ["youtube-clone-api"],
            "remote_jwks": {"uri": "http://auth.internal/.well-known/jwks.json", "cluster": "auth"},
        }},
        "user": {
            "source": "lookup",
            "key": ["clerkId", "sub"],
            "lookup": {"cluster": "users", "authority": "users.internal",
                       "path": "/internal/users/by-clerk-id/{key}"},
        },
        "rules": [{"match": {"path": "/healthz"}, "require": "anonymous"}],
    })
}

/// The service's routes. No request reaches them but by the gate.
pub fn router(gate: Gate) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/me", get(me))
        .layer(middleware::from_fn_with_state(gate, guard))
}

/// Who the user is, by the gate's word, and which headers came in here.
async fn me(Extension(context): Extension<Context>, request: Request) -> Json<Value> {
    let context: HashMap<_, _> = context.iter().collect();
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    Json(json!({"context": context, "headers": names}))
}

/// Lets through what the gate admits, as the gate edits it.
pub async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response<Body> {
    // Handlers may read the target or the header, so there is one host, which is decided on.
    if let Some(host) = host(&request) {
        request.headers_mut().insert(header::HOST, host);
    }
    // Over a connection with client certificates, `mode: service` is told here whose it was.
    match gate.check(head(&request), Hop::default()).await {
        Decision::Admit(admission) if apply(&mut request, admission.edits()) => {
            request.extensions_mut().insert(admission.context().clone());
            next.run(request).await
        }
        // Half of the edits could be a lie.
        Decision::Admit(_) => with_status(StatusCode::INTERNAL_SERVER_ERROR, Body::empty()),
        Decision::Reply(reply) => response(reply),
    }
}

/// The host that a request is for: its target's, whatever the header says (RFC 9112 section 3.2.2).
fn host(request: &Request) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(header::HOST).cloned(),
    }
}

fn head(request: &Request) -> Head {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let head = Head::new(request.method().as_str(), host.unwrap_or_default(), target);
    request
        .headers()
        .iter()
        .fold(head, |head, (name, value)| head.with(name.as_str(), value.as_bytes()))
}

/// Applies the edits; whether all of them could be.
fn apply(request: &mut Request, edits: &[Edit]) -> bool {
    edits.iter().all(|edit| match edit {
        Edit::Set(name, value) if name == ":path" => {
            let target = value.as_slice().try_into().ok();
            target.map(|target| *request.uri_mut() = target).is_some()
        }
        Edit::Set(name, value) => {
            let pair = HeaderName::from_bytes(name.as_bytes()).ok();
            let pair = pair.zip(HeaderValue::from_bytes(value).ok());
            pair.map(|(name, value)| request.headers_mut().insert(name, value)).is_some()
        }
        Edit::Remove(name) => {
            request.headers_mut().remove(name.as_str());
            true
        }
    })
}

fn response(reply: Reply) -> Response<Body> {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = reply.headers;
    // Without a status of its own, a gRPC client would be told nothing but 200.
    let body = match reply.grpc_status {
        Some(status) => {
            headers.push(("content-type".into(), "application/grpc".to_owned()));
            headers.push(("grpc-status".into(), status.to_string()));
            headers.push(("grpc-message".into(), reply.body));
            Body::empty()
        }
        None => Body::from(reply.body),
    };
    let mut response = with_status(status, body);
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok();
        if let Some((name, value)) = name.zip(HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn with_status(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Makes the gate's calls, on the runtime of `handle`. `clusters` says where each one leads.
pub fn fetch(clusters: HashMap<&'static str, SocketAddr>, handle: Handle) -> impl FnMut(Call) {
    let client: Client<HttpConnector, Full<_>> = Client::builder(TokioExecutor::new()).build_http();
    move |call| match clusters.get(call.cluster()) {
        Some(address) => drop(handle.spawn(send(client.clone(), *address, call))),
        None => call.fail(Failure::UnknownCluster),
    }
}

async fn send(
    client: Client<HttpConnector, Full<axum::body::Bytes>>,
    address: SocketAddr,
    call: Call,
) {
    let uri = format!("http://{address}{}", call.path());
    let request =
        Request::builder().method(call.method()).uri(uri).header(header::HOST, call.authority());
    let request =
        call.headers().fold(request, |request, (name, value)| request.header(name, value));
    let Ok(request) = request.body(Full::from(call.body().unwrap_or_default().to_vec())) else {
        return call.fail(Failure::NotSent);
    };
    let max_body = call.max_body();
    let exchange = async {
        let response = client.request(request).await.map_err(|_| Failure::NotSent)?;
        let (parts, body) = response.into_parts();
        match Limited::new(body, max_body).collect().await {
            Ok(body) => Ok((parts, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLong),
            Err(_) => Err(Failure::Broken),
        }
    };
    match tokio::time::timeout(call.timeout(), exchange).await {
        Ok(Ok((parts, body))) => {
            let headers = parts.headers.iter();
            let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
            call.answer(parts.status.as_u16(), headers, body.to_vec());
        }
        Ok(Err(failure)) => call.fail(failure),
        Err(_) => call.fail(Failure::TimedOut),
    }
}
