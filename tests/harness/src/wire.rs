//! HTTP/1.1 as bytes: a client that sends what no client would, and a server that keeps what arrived as it
//! arrived, and answers what no server would.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Response, open, read_all};
use crate::pki::ClientTls;
use crate::server::bind;
use crate::{RUNTIME, lock};

/// Sends these bytes on a connection of their own, and reads what is answered until the server says that it
/// closes, closes, or is silent for so long.
pub fn send(
    to: SocketAddr,
    tls: Option<&ClientTls>,
    bytes: &[u8],
    patience: Duration,
) -> io::Result<Vec<Response>> {
    let mut stream = open(to, tls, patience)?;
    // It may have refused what came so far, and closed. What it said of that is still to be read.
    let _ = io::Write::write_all(&mut stream, bytes);
    let _ = io::Write::flush(&mut stream);
    let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
    Ok(read_all(&mut stream, method))
}

/// A request, as it arrived.
#[derive(Clone, Default)]
pub struct Heard {
    /// The request line and the header lines, without the empty line.
    pub head: Vec<u8>,
    /// Without framing.
    pub body: Vec<u8>,
    /// The lines of the trailers.
    pub trailers: Vec<u8>,
    /// False if the client broke off before the end.
    pub complete: bool,
}

impl Heard {
    /// The lines of head and trailers, as who is least careful would cut them: any of CR and LF ends one.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
        self.head.split(ends).skip(1).chain(self.trailers.split(ends))
    }

    /// The values of the header called exactly `name`, which Envoy writes in lower case.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let value = |line| <[u8]>::strip_prefix(line, name.as_bytes())?.strip_prefix(b":");
        self.head.split(|byte| *byte == b'\n').filter_map(value).map(<[u8]>::trim_ascii).collect()
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Heard { head, body, trailers, complete } = self;
        write!(f, "{} ({} bytes of body)", head.escape_ascii(), body.len())?;
        write!(f, " {} complete: {complete}", trailers.escape_ascii())
    }
}

/// What a [`Wire`] does with a request.
#[derive(Clone)]
pub struct Reply {
    /// What it writes, at once or byte by byte.
    pub bytes: Vec<u8>,
    /// What it does then.
    pub then: Then,
}

/// How it goes on with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next request may come.
    Stay,
    /// It closes.
    Close,
    /// It resets the connection.
    Reset,
    /// Nothing, and it does not close.
    Hang,
    /// It has written the bytes one by one, so long after each other, and closes.
    Dripped(Duration),
    /// It sends back what it is sent, until the end.
    Echo,
}

impl Reply {
    /// These bytes, and then that.
    pub fn new(bytes: impl Into<Vec<u8>>, then: Then) -> Reply {
        Reply { bytes: bytes.into(), then }
    }

    /// A proper 200 of JSON.
    pub fn json(body: impl AsRef<[u8]>) -> Reply {
        Reply::ok("content-type: application/json\r\n", body)
    }

    /// A proper 200 with these further header lines.
    pub fn ok(lines: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\n{lines}content-length: {}\r\n\r\n", body.len());
        Reply::new([head.as_bytes(), body].concat(), Then::Stay)
    }
}

type Script = dyn Fn(&Heard) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    instead: Mutex<Option<Reply>>,
    heard: Mutex<Vec<Heard>>,
}

/// A running server of bytes, gone when dropped.
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropping it ends the server, with its connections.
    _stop: oneshot::Sender<()>,
}

impl Wire {
    /// Answers what `script` says on a free port of 127.0.0.1.
    pub fn start(script: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> Wire {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        let (script, instead, heard) = (Box::new(script), Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { script, instead, heard });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let _runtime = RUNTIME.enter();
        let listener = socket.listen(1024).unwrap_or_else(|error| panic!("{address}: {error}"));
        RUNTIME.spawn(async move {
            let mut connections = JoinSet::new();
            let accept = async {
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        let shared = Arc::clone(&serving);
                        connections.spawn(async move { serve(stream, &shared).await });
                        while connections.try_join_next().is_some() {}
                    }
                }
            };
            tokio::select! { _ = stopped => {} () = accept => {} }
        });
        Wire { address, shared, _stop: stop }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers so from now on, whatever is asked; with `None`, as the script says.
    pub fn say(&self, reply: Option<Reply>) {
        *lock(&self.shared.instead) = reply;
    }

    /// What arrived, leaving none. A request stands here before it is answered.
    pub fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut lock(&self.shared.heard))
    }

    /// How many requests arrived and were not taken.
    pub fn heard(&self) -> usize {
        lock(&self.shared.heard).len()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.address)
    }
}

/// What goes wrong with a connection shows at the peer, which is what is tested.
async fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = Vec::new();
    loop {
        let heard = next_request(&mut stream, &mut buffer, shared).await?;
        let instead = lock(&shared.instead).clone();
        let Reply { bytes, then } = instead.unwrap_or_else(|| (shared.script)(&heard));
        if let Then::Dripped(pause) = then {
            for byte in bytes {
                stream.write_all(&[byte]).await.ok()?;
                tokio::time::sleep(pause).await;
            }
            return None;
        }
        stream.write_all(&bytes).await.ok()?;
        match then {
            Then::Stay => {}
            Then::Close | Then::Dripped(_) => return None,
            Then::Reset => {
                // What was written should arrive before the reset, which would overtake it.
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.set_zero_linger().ok()?;
                return None;
            }
            Then::Hang => std::future::pending().await,
            Then::Echo => {
                let (mut from, mut to) = stream.split();
                to.write_all(&buffer).await.ok()?;
                tokio::io::copy(&mut from, &mut to).await.ok()?;
                return None;
            }
        }
    }
}

async fn next_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    shared: &Shared,
) -> Option<Heard> {
    loop {
        if let Some((heard, length)) = cut(buffer) {
            buffer.drain(..length);
            lock(&shared.heard).push(heard.clone());
            return Some(heard);
        }
        if matches!(stream.read_buf(buffer).await, Ok(0) | Err(_)) {
            // It has reached us all the same.
            if !buffer.is_empty() {
                lock(&shared.heard)
                    .push(Heard { head: std::mem::take(buffer), ..Heard::default() });
            }
            return None;
        }
    }
}

/// The first request of these bytes, if all of it is there, and how many bytes it takes.
fn cut(bytes: &[u8]) -> Option<(Heard, usize)> {
    let (head, mut rest) = split(bytes, b"\r\n\r\n")?;
    let mut heard = Heard { head: head.to_vec(), complete: true, ..Heard::default() };
    let chunked = heard.values("transfer-encoding").iter().any(|value| value.ends_with(b"chunked"));
    if chunked {
        loop {
            let (line, after) = split(rest, b"\r\n")?;
            let size = std::str::from_utf8(line).ok()?.split(';').next()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            rest = after;
            if size == 0 {
                break;
            }
            heard.body.extend_from_slice(rest.get(..size)?);
            rest = rest.get(size + 2..)?;
        }
        loop {
            let (line, after) = split(rest, b"\r\n")?;
            rest = after;
            if line.is_empty() {
                break;
            }
            heard.trailers.extend([line, b"\r\n"].concat());
        }
    } else {
        let length = heard.values("content-length").first().copied().unwrap_or(b"0");
        let length = std::str::from_utf8(length).ok()?.parse().ok()?;
        heard.body = rest.get(..length)?.to_vec();
        rest = rest.get(length..)?;
    }
    let length = bytes.len() - rest.len();
    Some((heard, length))
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..place], &bytes[place + at.len()..]))
}
