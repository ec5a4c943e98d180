//! An HTTP/1.1 client that sends exactly the bytes it is given, over TLS or not, and an HTTP/2 one that can send trailers.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tokio::net::TcpSocket;

use crate::pki::ClientTls;
use crate::{Headers, RUNTIME, headers_of, values};

/// The `Host` of requests that do not set one.
pub const HOST: &str = "api.example";

/// How long a response may take: longer than every timeout under test.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// A request in the making. Header names go out as written, repeated ones too, and values may be any bytes.
#[must_use]
#[derive(Clone)]
pub struct Request {
    to: SocketAddr,
    method: String,
    target: Vec<u8>,
    headers: Headers,
    body: Vec<u8>,
    tls: Option<ClientTls>,
    source: Option<IpAddr>,
}

impl Request {
    /// Any method and request target.
    pub fn new(to: SocketAddr, method: &str, target: impl AsRef<[u8]>) -> Request {
        let target = target.as_ref().to_vec();
        let (headers, body) = (Headers::new(), Vec::new());
        Request { to, method: method.into(), target, headers, body, tls: None, source: None }
    }

    /// A GET.
    pub fn get(to: SocketAddr, target: impl AsRef<[u8]>) -> Request {
        Request::new(to, "GET", target)
    }

    /// Changes the request target.
    pub fn target(mut self, target: impl AsRef<[u8]>) -> Request {
        self.target = target.as_ref().to_vec();
        self
    }

    /// Changes the method.
    pub fn method(mut self, method: &str) -> Request {
        self.method = method.into();
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Adds `Authorization: Bearer` with this token.
    pub fn bearer(self, token: &str) -> Request {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Sets the body, sent with a `Content-Length` unless a header frames it.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// Comes from this address of the machine's: of 127.0.0.0/8, Linux has all.
    pub fn from(mut self, source: [u8; 4]) -> Request {
        self.source = Some(source.into());
        self
    }

    /// Goes over TLS. A server of another authority, or at an address its certificate does not name, is refused.
    pub fn tls(mut self, tls: &ClientTls) -> Request {
        self.tls = Some(tls.clone());
        self
    }

    /// Sends, and reads the response.
    #[track_caller]
    pub fn send(&self) -> Response {
        self.begin().finish()
    }

    /// Sends, and reads nothing yet. Dropping what it returns hangs up.
    #[track_caller]
    pub fn begin(&self) -> Pending {
        let fail = |error: io::Error| -> ! { panic!("cannot send {self:?}: {error}") };
        let stream = self.connect(TIMEOUT).unwrap_or_else(|error| fail(error));
        self.write_to(stream).unwrap_or_else(|error| fail(error))
    }

    /// [`Request::send`] that reports what went wrong.
    pub fn try_send(&self, timeout: Duration) -> io::Result<Response> {
        let mut pending = self.write_to(self.connect(timeout)?)?;
        pending.stream.socket().set_read_timeout(Some(timeout))?;
        pending.read()
    }

    fn connect(&self, timeout: Duration) -> io::Result<TcpStream> {
        let Some(source) = self.source else {
            return TcpStream::connect_timeout(&self.to, timeout);
        };
        let connected = RUNTIME.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((source, 0)))?;
            tokio::time::timeout(timeout, socket.connect(self.to)).await?
        });
        let stream = connected?.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn write_to(&self, socket: TcpStream) -> io::Result<Pending> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut stream = Stream::over(socket, self.to, self.tls.as_ref())?;
        stream.write_all(&self.bytes())?;
        stream.flush()?;
        Ok(Pending { request: self.clone(), stream })
    }

    /// Where it goes.
    pub(crate) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Sends on a connection that may have carried others before, and reads the response.
    pub(crate) fn exchange(&self, stream: &mut TcpStream) -> io::Result<Response> {
        stream.write_all(&self.bytes()).map_err(unanswered)?;
        read(stream, &self.method)
    }

    fn bytes(&self) -> Vec<u8> {
        let has = |name: &str| !values(&self.headers, name).is_empty();
        let mut headers = Headers::new();
        if !has("host") {
            headers.push(("Host".into(), HOST.into()));
        }
        headers.extend_from_slice(&self.headers);
        if !self.body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            headers.push(("Content-Length".into(), self.body.len().to_string().into()));
        }
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Names the request without its headers, which hold tokens.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", self.method, self.target.escape_ascii(), self.to)
    }
}

/// A request that was sent, and its connection.
#[derive(Debug)]
pub struct Pending {
    request: Request,
    stream: Stream,
}

impl Pending {
    /// Reads the response; panics when none comes within [`TIMEOUT`].
    #[track_caller]
    pub fn finish(mut self) -> Response {
        match self.read() {
            Ok(response) => response,
            Err(error) => panic!("no response to {:?}: {error}", self.request),
        }
    }

    /// Sends more bytes, as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        let written = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        written.unwrap_or_else(|error| panic!("cannot go on with {:?}: {error}", self.request));
    }

    fn read(&mut self) -> io::Result<Response> {
        read(&mut self.stream, &self.request.method)
    }
}

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection on which nothing is waited for longer than `patience`.
pub(crate) fn open(
    to: SocketAddr,
    tls: Option<&ClientTls>,
    patience: Duration,
) -> io::Result<Stream> {
    let socket = TcpStream::connect_timeout(&to, TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Stream::over(socket, to, tls)
}

impl Stream {
    fn over(socket: TcpStream, to: SocketAddr, tls: Option<&ClientTls>) -> io::Result<Stream> {
        let Some(ClientTls(config)) = tls else {
            return Ok(Stream::Plain(socket));
        };
        let server = ServerName::IpAddress(to.ip().into());
        let session =
            ClientConnection::new(Arc::clone(config), server).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A response, to either client.
#[derive(Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names as they came.
    pub headers: Headers,
    /// Without framing.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Headers,
}

impl Response {
    /// The first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        values(&self.headers, name).first().copied()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics if it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            writeln!(f, "  {name}: {}", value.escape_ascii())?;
        }
        write!(f, "  {}", self.text())
    }
}

/// Reads the response to a request with this method.
fn read(stream: &mut impl Read, method: &str) -> io::Result<Response> {
    let mut input = Input { stream, buffer: Vec::new() };
    input.more().map_err(unanswered)?;
    read_one(&mut input, method)
}

/// Reads responses, the first one to a request with this method, up to one that says it is the last, or to
/// what is none.
pub(crate) fn read_all(stream: &mut impl Read, method: &str) -> Vec<Response> {
    let mut input = Input { stream, buffer: Vec::new() };
    let mut responses = Vec::new();
    while let Ok(response) = read_one(&mut input, if responses.is_empty() { method } else { "GET" })
    {
        let last = response.header("connection") == Some(b"close");
        responses.push(response);
        if last {
            break;
        }
    }
    responses
}

fn read_one<S: Read>(input: &mut Input<'_, S>, method: &str) -> io::Result<Response> {
    let mut response = loop {
        let head = input.until(b"\r\n\r\n")?;
        let response = parse_head(&head)?;
        // 1xx responses precede the one that counts.
        if response.status >= 200 {
            break response;
        }
    };
    if method == "HEAD" || response.status == 204 || response.status == 304 {
        return Ok(response);
    }
    let chunked =
        values(&response.headers, "transfer-encoding").iter().any(|v| v.ends_with(b"chunked"));
    if chunked {
        loop {
            let line = input.until(b"\r\n")?;
            let size = match httparse::parse_chunk_size(&line) {
                Ok(httparse::Status::Complete((_, size))) => {
                    usize::try_from(size).map_err(invalid)?
                }
                _ => return Err(invalid("bad chunk size")),
            };
            if size == 0 {
                break;
            }
            response.body.extend(input.exactly(size)?);
            input.exactly(2)?;
        }
        loop {
            let line = input.until(b"\r\n")?;
            match line.strip_suffix(b"\r\n").filter(|line| !line.is_empty()) {
                Some(line) => response.trailers.push(field(line)?),
                None => break,
            }
        }
    } else if let Some(length) = response.header("content-length") {
        let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok());
        response.body = input.exactly(length.ok_or_else(|| invalid("bad content-length"))?)?;
    } else {
        response.body = std::mem::take(&mut input.buffer);
        input.stream.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

struct Input<'a, S> {
    stream: &'a mut S,
    buffer: Vec<u8>,
}

impl<S: Read> Input<'_, S> {
    /// Everything up to and with `end`.
    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.more()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "nothing came in time")
            }
            _ => error,
        })?;
        if read == 0 {
            let so_far = self.buffer.escape_ascii();
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after `{so_far}`"),
            ));
        }
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}

/// Whether the connection was closed before the first byte of an answer.
pub(crate) fn closed_unanswered(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}

/// What went wrong before the first byte of an answer.
fn unanswered(error: io::Error) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => {
            io::Error::new(ConnectionAborted, "closed before an answer")
        }
        _ => error,
    }
}

fn parse_head(head: &[u8]) -> io::Result<Response> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed.parse(head).map_err(invalid)?;
    let headers =
        parsed.headers.iter().map(|field| (field.name.into(), field.value.to_vec())).collect();
    Ok(Response {
        status: parsed.code.unwrap_or_default(),
        headers,
        body: Vec::new(),
        trailers: Headers::new(),
    })
}

fn field(line: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| invalid("bad trailer"))?;
    Ok((String::from_utf8_lossy(&line[..colon]).into(), line[colon + 1..].trim_ascii().to_vec()))
}

fn invalid(error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Sends a request over cleartext HTTP/2, with trailers if there are any. Names go out in lower case.
#[track_caller]
pub fn h2(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
    trailers: &[(&str, &[u8])],
) -> Response {
    let uri: Uri = format!("http://{HOST}{path}").parse().expect("a valid path");
    let trailers = (!trailers.is_empty()).then(|| header_map(trailers));
    let body =
        Full::new(Bytes::copy_from_slice(body)).with_trailers(std::future::ready(trailers.map(Ok)));
    let mut request = hyper::Request::new(body);
    *request.method_mut() = method.parse::<Method>().expect("a valid method");
    *request.uri_mut() = uri;
    *request.headers_mut() = header_map(headers);

    let exchange = async {
        let stream = TokioIo::new(
            tokio::net::TcpStream::connect(to).await.map_err(|error| error.to_string())?,
        );
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
        Ok::<_, String>(Response {
            status: head.status.as_u16(),
            headers: headers_of(&head.headers),
            trailers: body.trailers().map(headers_of).unwrap_or_default(),
            body: body.to_bytes().to_vec(),
        })
    };
    let outcome = RUNTIME.block_on(async { tokio::time::timeout(TIMEOUT, exchange).await });
    match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => panic!("no response to {method} {path} over HTTP/2: {error}"),
        Err(_) => panic!("no response to {method} {path} over HTTP/2 within {TIMEOUT:?}"),
    }
}

fn header_map(headers: &[(&str, &[u8])]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a valid header name");
        map.append(name, HeaderValue::from_bytes(value).expect("a valid header value"));
    }
    map
}
