//! A real Redis, and a real webdis: the HTTP server before it that Envoy can call.
//!
//! ```no_run
//! use harness::redis::{Redis, Reply};
//!
//! if let Some(redis) = harness::skip::require("a real Redis", Redis::start()) {
//!     redis.command(&["SET", "k", "v"]);
//!     assert_eq!(redis.command(&["GET", "k"]), Reply::Text("v".into()));
//! }
//! ```

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::Duration;

use serde_json::json;

use crate::client::{Request, TIMEOUT};
use crate::daemon::{Daemon, Program};

/// A running Redis without persistence, gone when dropped. It starts empty, and after each
/// [`Daemon::restart`], too.
#[derive(Debug)]
pub struct Redis(Daemon);

impl Redis {
    /// Starts `redis-server` from the PATH on a free port of 127.0.0.1; fails where there is none.
    #[track_caller]
    pub fn start() -> Result<Redis, String> {
        let program = Program { name: "redis-server", package: "redis-server", arguments: &[] };
        Daemon::start(program, redis_config, redis_answers).map(Redis)
    }

    /// Runs a command, on a connection of its own; panics when it is refused or not answered in time.
    #[track_caller]
    pub fn command<W: AsRef<[u8]>>(&self, words: &[W]) -> Reply {
        match command(self.0.address(), words) {
            Ok(reply) => reply,
            Err(error) => {
                let words = words.iter().map(|word| word.as_ref().escape_ascii().to_string());
                panic!("Redis: {}: {error}", words.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

impl Deref for Redis {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

/// What Redis says to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is no such thing.
    Nil,
    /// A string, or a status such as `OK`. What is not UTF-8 is replaced.
    Text(String),
    /// A number.
    Number(i64),
    /// Several.
    List(Vec<Reply>),
}

/// A running webdis before a [`Redis`], gone when dropped. Every command is allowed. It starts, anew too, only while Redis
/// is up.
///
/// What its version 0.1.9 does, as the tests of this module check:
///
/// - `GET /GET/k` answers 200 `{"GET":"v"}`, for a key that is not there 200 `{"GET":null}`;
///   `GET /MGET/a/b` answers 200 `{"MGET":["v",null]}`. The command stands in the answer as it was written.
/// - An error of Redis is a 200, too: `{"GET":[false,"WRONGTYPE ..."]}`. So is `{"SETEX":[true,"OK"]}`.
/// - A path is cut at `/`, loses its query, and what follows the last `.` in it is an output format if it
///   is a known one (`json`, `raw`, `txt`, `html`, `png`, ...), and part of the key if not. `+` is a space.
///   Percent-encoded, each of these stands for itself (`%2F`, `%2E`, `%2B`, `%3F`): a key with all but
///   letters and digits encoded is safe.
/// - The body of a `PUT` is the last argument, byte for byte, whatever its content type, chunked or not:
///   `PUT /SETEX/k/300`. An empty body is no argument. `POST` takes the whole command from the body, and
///   `HEAD` and `DELETE` are answered 405.
/// - A value that is not UTF-8 is read as 200 `{}`; of one with a NUL, only what is before it.
/// - While Redis is down, everything is answered 503 without a body, at once; what was under way when it
///   broke off, too. Once it is back, so is webdis, within a tenth of a second.
/// - While Redis hangs, so does webdis: it has no timeout.
#[derive(Debug)]
pub struct Webdis(Daemon);

impl Webdis {
    /// Starts `webdis` from the PATH on a free port of 127.0.0.1; fails where there is none.
    #[track_caller]
    pub fn start(redis: &Redis) -> Result<Webdis, String> {
        let config = |address| webdis_config(address, redis.address());
        let program = Program { name: "webdis", package: "webdis", arguments: &[] };
        Daemon::start(program, config, webdis_answers).map(Webdis)
    }
}

impl Deref for Webdis {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.0
    }
}

/// Without persistence of either kind.
fn redis_config(address: SocketAddr) -> String {
    format!("bind {}\nport {}\nsave \"\"\nappendonly no\n", address.ip(), address.port())
}

fn redis_answers(redis: SocketAddr) -> io::Result<()> {
    match command(redis, &["PING"])? {
        Reply::Text(pong) if pong == "PONG" => Ok(()),
        other => Err(invalid(format!("{other:?} in answer to PING"))),
    }
}

fn webdis_config(address: SocketAddr, redis: SocketAddr) -> String {
    json!({
        "http_host": address.ip(), "http_port": address.port(),
        "redis_host": redis.ip(), "redis_port": redis.port(),
        "threads": 2, "pool_size": 2, "daemonize": false, "verbosity": 4, "logfile": "/dev/stderr",
    })
    .to_string()
}

fn webdis_answers(webdis: SocketAddr) -> io::Result<()> {
    let response = Request::get(webdis, "/PING").try_send(Duration::from_secs(1))?;
    // 503 until it is connected to Redis.
    if response.status == 200 { Ok(()) } else { Err(invalid(format!("{response:?}"))) }
}

/// Sends one command and reads its reply, in RESP2.
fn command<W: AsRef<[u8]>>(redis: SocketAddr, words: &[W]) -> io::Result<Reply> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        request.extend([format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat());
    }
    let mut stream = TcpStream::connect_timeout(&redis, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&request)?;
    read_reply(&mut BufReader::new(stream))
}

fn read_reply(input: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let number = || rest.parse::<i64>().map_err(invalid);
    match kind {
        "+" => Ok(Reply::Text(rest.into())),
        ":" => Ok(Reply::Number(number()?)),
        // A length of -1 is how nil is written.
        "$" => match usize::try_from(number()?) {
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                input.read_exact(&mut bytes)?;
                Ok(Reply::Text(String::from_utf8_lossy(&bytes[..length]).into()))
            }
            Err(_) => Ok(Reply::Nil),
        },
        "*" => match usize::try_from(number()?) {
            Ok(length) => {
                (0..length).map(|_| read_reply(input)).collect::<Result<_, _>>().map(Reply::List)
            }
            Err(_) => Ok(Reply::Nil),
        },
        _ => Err(invalid(line)),
    }
}

fn invalid(error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
