//! The example's router, asserted at its handlers.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use axum::Router;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use harness::client::{Request, Response};
use harness::idp::{Idp, now, seed_claims};
use harness::users::Users;
use meshgate::embed::{Call, Gate};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

struct Service {
    address: SocketAddr,
    idp: Idp,
    users: Users,
    _runtime: Runtime,
}

impl Service {
    fn start() -> Self {
        let (idp, users) = (Idp::start(), Users::start());
        let runtime = Runtime::new().unwrap();
        let clusters = HashMap::from([("auth", idp.address()), ("users", users.address())]);
        let fetch = crate::app::fetch(clusters, runtime.handle().clone());
        let gate = Gate::start(crate::app::config().to_string().as_bytes(), fetch).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, crate::app::router(gate)).await });
        Self { address, idp, users, _runtime: runtime }
    }

    fn token(&self, clerk_id: &str) -> String {
        self.idp.key("es-1").token(&seed_claims(clerk_id))
    }

    fn me(&self, token: &str) -> Response {
        Request::get(self.address, "/me").bearer(token).send()
    }
}

#[track_caller]
fn refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some(&b"application/problem+json"[..]));
    assert_eq!(response.json()["code"], code);
}

#[test]
fn a_handler_sees_the_context_of_the_users_record() {
    let service = Service::start();
    let response = service.me(&service.token("user_2abc"));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(
        response.json()["context"],
        json!({"x-user-id": "u-1001", "x-user-clerk-id": "user_2abc", "x-user-role": "USER",
               "x-user-channel-id": "ch-2001"})
    );
    assert_eq!(service.users.lookups("user_2abc"), 1);
    // Another request of the same user asks nobody.
    assert_eq!(service.me(&service.token("user_2abc")).status, 200);
    assert_eq!(service.users.lookups("user_2abc"), 1);
}

#[test]
fn what_a_client_says_of_itself_and_its_token_reach_no_handler() {
    let service = Service::start();
    let response = Request::get(service.address, "/me")
        .bearer(&service.token("user_2abc"))
        .header("X-User-Id", "u-1002")
        .header("x_user_role", "ADMIN")
        .header("x-service-name", "billing")
        .header("x-mine", "stays")
        .send();
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = response.json();
    assert_eq!(seen["context"]["x-user-id"], "u-1001");
    let names: Vec<_> = seen["headers"].as_array().unwrap().iter().collect();
    for gone in ["x_user_role", "x-service-name", "authorization"] {
        assert!(!names.contains(&&json!(gone)), "{gone} in {names:?}");
    }
    for there in ["x-mine", "x-user-id", "x-user-role", "x-request-id"] {
        assert!(names.contains(&&json!(there)), "{there} not in {names:?}");
    }
}

#[test]
fn refusals_are_what_a_sidecar_would_answer() {
    let service = Service::start();
    let expired = {
        let mut claims = seed_claims("user_2abc");
        claims["iat"] = (now() - 7_200).into();
        claims["exp"] = (now() - 3_600).into();
        service.idp.key("es-1").token(&claims)
    };
    let response = service.me(&expired);
    refused(&response, 401, "token_expired");
    let challenge = String::from_utf8_lossy(response.header("www-authenticate").unwrap());
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");

    let response = Request::get(service.address, "/me").send();
    refused(&response, 401, "token_missing");
    refused(&service.me(&service.token("user_2xyz")), 403, "user_unknown");
    let response = Request::get(service.address, "/no/such/route").send();
    refused(&response, 401, "token_missing");

    let response = Request::get(service.address, "/healthz").send();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

#[test]
fn a_grpc_client_is_refused_in_its_own_words_and_not_with_a_bare_200() {
    let service = Service::start();
    let response = Request::get(service.address, "/me")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .send();
    let status = response.header("grpc-status").map(String::from_utf8_lossy);
    assert_eq!(status.as_deref(), Some("16"), "{} {}", response.status, response.text());
    assert_eq!(response.header("content-type"), Some(&b"application/grpc"[..]));
    let message = String::from_utf8_lossy(response.header("grpc-message").unwrap());
    assert!(message.starts_with("token_missing: "), "{message}");
    assert_eq!((response.status, response.text().as_str()), (200, ""));
}

#[test]
fn a_handler_sees_the_host_that_was_decided_on_and_no_other() {
    let mut config = crate::app::config();
    config["rules"] = json!([{"match": {"path_prefix": "/", "hosts": ["public.example"]}, "require": "anonymous"}]);
    let runtime = Runtime::new().unwrap();
    let gate = Gate::start(config.to_string().as_bytes(), |_: Call| ()).unwrap();
    let hosts = |headers: HeaderMap| async move { format!("{:?}", headers.get_all("host")) };
    let router =
        Router::new().route("/", get(hosts)).layer(from_fn_with_state(gate, crate::app::guard));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await });
    for head in [
        "GET http://public.example/ HTTP/1.1\r\nhost: admin.example\r\n",
        "GET / HTTP/1.1\r\nhost: public.example\r\nhost: admin.example\r\n",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.contains("admin.example"), "{head}{answer}");
    }
}

#[test]
fn a_users_service_that_is_down_is_a_503_and_lets_nobody_in() {
    let service = Service::start();
    service.users.shut();
    let response = service.me(&service.token("user_2abc"));
    refused(&response, 503, "user_lookup_unavailable");
    assert!(response.header("retry-after").is_some());

    service.users.reopen();
    // The circuit probes within a second or two.
    let served = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        service.me(&service.token("user_2abc")).status == 200
    });
    assert!(served);
}
