//! A small HTTP server whose behaviour a test switches while it runs. It speaks HTTP/1.1 and cleartext
//! HTTP/2, records what arrives byte for byte, and can hold answers back, break off, or be gone.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Sleep, sleep};

pub use hyper::Version;

use crate::{Headers, RUNTIME, headers_of, lock};

/// Only the latest requests are kept, so that a soak does not measure the harness. The count goes on.
pub const MAX_SEEN: usize = 10_000;

/// A request as it arrived.
#[derive(Clone)]
pub struct Seen {
    /// As sent.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// With HTTP/2, `:authority` is in [`Seen::authority`] and not here.
    pub headers: Headers,
    /// HTTP/2's `:authority`, or the host of an absolute target.
    pub authority: Option<String>,
    /// What arrived of the body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Headers,
    /// The protocol.
    pub version: Version,
    /// False if the client broke off before the end.
    pub complete: bool,
}

impl Seen {
    /// The first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers_named(name).first().copied()
    }

    /// Every header called `name`, in any case.
    pub fn headers_named(&self, name: &str) -> Vec<&[u8]> {
        crate::values(&self.headers, name)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {:?}", self.method, self.path, self.version)?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "  {name}: {}", value.escape_ascii())?;
        }
        write!(f, "  ({} bytes of body)", self.body.len())
    }
}

/// What a server sends back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Must be a valid status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Any status, type and bytes.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
        }
    }

    /// A JSON document.
    pub fn json(status: u16, body: &Value) -> Answer {
        Answer::new(status, "application/json", body.to_string())
    }

    /// An RFC 9457 problem.
    pub fn problem(status: u16, title: &str) -> Answer {
        let body = serde_json::json!({"title": title, "status": status});
        Answer::new(status, "application/problem+json", body.to_string())
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// How a server treats the requests that come.
#[derive(Clone, Debug)]
pub enum Behavior {
    /// The server's own answer.
    Serve,
    /// This status, with a problem as the body.
    Status(u16),
    /// This answer.
    Answer(Answer),
    /// The server's own answer, padded with spaces to so many bytes: nothing but the size is wrong with it.
    Huge(usize),
    /// The server's own answer, but only the first half of its body, as if that were all.
    Half,
    /// The server's own answer, whose second half comes so much later.
    Drip(Duration),
    /// Hang up within the server's own answer, after half of its body.
    BreakOff,
    /// Hang up without an answer (HTTP/2: reset the stream).
    Reset,
    /// Read the request, and answer once the behaviour changes or [`Server::release`] is called.
    Hold,
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// A running server, gone when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    port: Mutex<Port>,
}

struct Shared {
    handler: Box<Handler>,
    control: watch::Sender<Control>,
    record: Mutex<Record>,
    arrived: Condvar,
}

#[derive(Clone)]
struct Control {
    behavior: Behavior,
    releases: u64,
}

#[derive(Default)]
struct Record {
    total: usize,
    latest: VecDeque<Seen>,
}

enum Port {
    /// Dropping `stop` ends the task, with its listener and connections.
    Open {
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    },
    /// Bound without listening: connections are refused, and nobody else gets the port.
    Shut(TcpSocket),
    Changing,
}

impl Server {
    /// Serves `handler`'s answers on a free port of 127.0.0.1.
    pub fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Server {
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            control: watch::Sender::new(Control { behavior: Behavior::Serve, releases: 0 }),
            record: Mutex::default(),
            arrived: Condvar::new(),
        });
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        let server = Server { address, shared, port: Mutex::new(Port::Shut(socket)) };
        server.reopen();
        server
    }

    /// Where it listens. Stays the same through [`Server::shut`] and [`Server::reopen`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Treats requests so from now on; held ones, too.
    pub fn behave(&self, behavior: Behavior) {
        self.shared.control.send_modify(|control| control.behavior = behavior);
    }

    /// Ends [`Behavior::Hold`]: the requests held are served, and those that come.
    pub fn release(&self) {
        self.shared.control.send_modify(|control| {
            control.behavior = Behavior::Serve;
            control.releases += 1;
        });
    }

    /// Closes the port and every connection: from now on, connections are refused.
    pub fn shut(&self) {
        let mut port = lock(&self.port);
        *port = match std::mem::replace(&mut *port, Port::Changing) {
            Port::Open { stop, task } => {
                drop(stop);
                let _ = RUNTIME.block_on(task);
                Port::Shut(bind(self.address))
            }
            already => already,
        };
    }

    /// Listens again on the same port.
    pub fn reopen(&self) {
        let mut port = lock(&self.port);
        *port = match std::mem::replace(&mut *port, Port::Changing) {
            Port::Shut(socket) => {
                let _runtime = RUNTIME.enter();
                let listener = socket.listen(1024).unwrap_or_else(|error| {
                    panic!("cannot listen on {}: {error}", self.address);
                });
                let (stop, stopped) = oneshot::channel();
                Port::Open {
                    stop,
                    task: RUNTIME.spawn(accept(listener, self.shared.clone(), stopped)),
                }
            }
            already => already,
        };
    }

    /// How many requests have arrived since the start.
    pub fn requests(&self) -> usize {
        lock(&self.shared.record).total
    }

    /// The requests that arrived (the latest [`MAX_SEEN`]) and were not taken yet.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.record).latest.iter().cloned().collect()
    }

    /// [`Server::seen`], leaving none. [`Server::requests`] still counts them.
    pub fn take(&self) -> Vec<Seen> {
        lock(&self.shared.record).latest.drain(..).collect()
    }

    /// Blocks until `count` requests have arrived since the start; panics if they do not.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize, timeout: Duration) {
        let record = lock(&self.shared.record);
        let waited =
            self.shared.arrived.wait_timeout_while(record, timeout, |record| record.total < count);
        let (record, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(
            record.total >= count,
            "{} of {count} requests arrived within {timeout:?}",
            record.total
        );
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

/// A socket that does not listen. Others that set `SO_REUSEADDR` can listen on its port, if they ask for it.
pub(crate) fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("an IPv4 socket");
    // Connections of the server that was here may linger on this port.
    let bound = socket.set_reuseaddr(true).and_then(|()| socket.bind(address));
    bound.unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

/// A port of 127.0.0.1 that the OS gives to nobody who asks for a free one, while this lives. Who asks for it by its
/// number and sets `SO_REUSEADDR` can listen on it.
#[derive(Debug)]
pub struct FreePort(TcpSocket);

/// A port that nothing listens on.
#[track_caller]
pub fn free_port() -> FreePort {
    FreePort(bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
}

impl FreePort {
    /// Its number.
    pub fn number(&self) -> u16 {
        self.0.local_addr().expect("a bound socket has an address").port()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        let shared = shared.clone();
        connections.spawn(async move {
            // Without it, answers wait for the peer's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let service = service_fn(|request| answer(shared.clone(), request));
            let mut protocol = auto::Builder::new(TokioExecutor::new());
            protocol.http1().max_headers(1024);
            // What goes wrong with a connection shows at the peer, which is what is tested.
            let _ = protocol.serve_connection(TokioIo::new(stream), service).await;
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// How long it takes until what was written so far is sent, where then the connection breaks.
const FLUSH: Duration = Duration::from_millis(20);

/// A body in two parts, the second of which comes later, or never.
struct Body {
    length: u64,
    first: Option<Bytes>,
    second: Option<(Pin<Box<Sleep>>, Rest)>,
}

/// What follows, or that nothing does.
type Rest = Result<Bytes, &'static str>;

impl Body {
    fn whole(body: Vec<u8>) -> Body {
        Body { length: body.len() as u64, first: Some(body.into()), second: None }
    }

    fn halves(body: Vec<u8>, pause: Duration, complete: bool) -> Body {
        let mut first = Bytes::from(body);
        let length = first.len() as u64;
        let second = first.split_off(first.len() / 2);
        let second = if complete { Ok(second) } else { Err("as the test asked") };
        Body { length, first: Some(first), second: Some((Box::pin(sleep(pause)), second)) }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some((pause, _)) = &mut self.second {
            ready!(pause.as_mut().poll(context));
        }
        Poll::Ready(self.second.take().map(|(_, second)| second.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.second.is_none()
    }

    /// Of the whole: what is still to come is not asked for.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// An error makes hyper drop the connection or stream.
async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, &'static str> {
    let mut control = shared.control.subscribe();
    // Before the request is recorded: whoever waits for it may then switch to what the next one gets.
    let at_arrival = control.borrow_and_update().clone();
    let seen = receive(&shared, request).await;
    let behavior = match at_arrival.behavior {
        Behavior::Hold => {
            let released = |now: &Control| now.releases != at_arrival.releases;
            let held = |now: &Control| !released(now) && matches!(now.behavior, Behavior::Hold);
            let now = control.wait_for(|now| !held(now)).await.map_err(|_| "the server is gone")?;
            if released(&now) { Behavior::Serve } else { now.behavior.clone() }
        }
        behavior => behavior,
    };
    let own = || (shared.handler)(&seen);
    let answer = match &behavior {
        Behavior::Serve | Behavior::Drip(_) | Behavior::BreakOff => own(),
        Behavior::Status(status) => Answer::problem(*status, "as the test asked"),
        Behavior::Answer(answer) => answer.clone(),
        Behavior::Huge(bytes) => {
            let mut answer = own();
            answer.body.resize((*bytes).max(answer.body.len()), b' ');
            answer
        }
        Behavior::Half => {
            let mut answer = own();
            answer.body.truncate(answer.body.len() / 2);
            answer
        }
        Behavior::Reset | Behavior::Hold => return Err("as the test asked"),
    };
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let body = match behavior {
        Behavior::Drip(pause) => Body::halves(answer.body, pause, true),
        Behavior::BreakOff => Body::halves(answer.body, FLUSH, false),
        _ => Body::whole(answer.body),
    };
    Ok(response.body(body).expect("an answer with a valid status and headers"))
}

/// Reads the whole request, and records it even if the client breaks off: it has reached us all the same.
async fn receive(shared: &Shared, request: Request<Incoming>) -> Seen {
    struct Recorded<'a>(&'a Shared, Seen);
    impl Drop for Recorded<'_> {
        fn drop(&mut self) {
            let mut record = lock(&self.0.record);
            record.total += 1;
            if record.latest.len() == MAX_SEEN {
                record.latest.pop_front();
            }
            record.latest.push_back(self.1.clone());
            self.0.arrived.notify_all();
        }
    }

    let (head, mut body) = request.into_parts();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: headers_of(&head.headers),
        authority: head.uri.authority().map(ToString::to_string),
        body: Vec::new(),
        trailers: Headers::new(),
        version: head.version,
        complete: false,
    };
    let mut recorded = Recorded(shared, seen);
    loop {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => recorded.1.body.extend_from_slice(&data),
                Err(frame) => {
                    recorded.1.trailers = frame.trailers_ref().map(headers_of).unwrap_or_default()
                }
            },
            Some(Err(_)) => break,
            None => {
                recorded.1.complete = true;
                break;
            }
        }
    }
    recorded.1.clone()
}
