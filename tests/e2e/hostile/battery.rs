//! Sends cases to a filter, and holds against what arrived behind it what must always hold.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::client::Response;
use harness::pki::ClientTls;
use harness::wire::{Heard, Reply, Wire, send};

use super::grammar::{Case, MANAGED, NUMBER, Soil, generate};
use crate::support::{CONTEXT, USER};

/// How long a connection is listened to on which no answer may ever come.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many cases are sent between two good requests.
const BATCH: u64 = 250;
/// How many are sent at once.
const THREADS: u64 = 4;

/// An upstream that keeps every byte.
pub fn upstream() -> Wire {
    Wire::start(|_| Reply::ok("", ""))
}

/// How many generated requests a test sends that would send so many.
pub fn requests(usual: u64) -> u64 {
    let asked = std::env::var("MESHGATE_HOSTILE_REQUESTS");
    asked.map_or(usual, |count| count.parse().expect("MESHGATE_HOSTILE_REQUESTS is a number"))
}

/// A place that is attacked.
pub struct Battery<'a> {
    pub to: SocketAddr,
    pub tls: Option<ClientTls>,
    pub patience: Duration,
    /// What is behind the filter, where anything is.
    pub upstream: Option<&'a Wire>,
    /// The good request that is sent after each batch, and must be answered 200.
    pub good: Vec<u8>,
    /// A good token, which is to go no further.
    token: String,
    /// Whom the upstream is told of where a token is good. Nobody, where no context may go.
    pub user: [Option<&'a str>; 4],
    sent: AtomicUsize,
    silent: AtomicUsize,
    statuses: Mutex<BTreeMap<u16, usize>>,
    arrived: AtomicUsize,
    start: Instant,
}

impl<'a> Battery<'a> {
    pub fn new(to: SocketAddr, upstream: Option<&'a Wire>, path: &str, token: &str) -> Self {
        let good = format!(
            "GET {path} HTTP/1.1\r\nhost: api.example\r\nauthorization: Bearer {token}\r\nx-user-id: forged\r\n{NUMBER}: good\r\nconnection: close\r\n\r\n"
        );
        Battery {
            to,
            tls: None,
            patience: PATIENCE,
            upstream,
            good: good.into_bytes(),
            token: token.to_owned(),
            user: USER,
            sent: AtomicUsize::new(0),
            silent: AtomicUsize::new(0),
            statuses: Mutex::default(),
            arrived: AtomicUsize::new(0),
            start: Instant::now(),
        }
    }

    /// Sends the requests that `seed` makes, so many.
    pub fn generated(&self, seed: u64, count: u64, soil: &Soil) {
        for first in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
            let numbers = first..count.min(first + BATCH);
            let cases: Vec<Case> =
                numbers.clone().map(|number| generate(seed, number, soil)).collect();
            let tokened = |number: u64| {
                numbers.contains(&number) && cases[usize::try_from(number - first).unwrap()].token
            };
            std::thread::scope(|scope| {
                for thread in 0..THREADS {
                    let mine = cases.iter().skip(usize::try_from(thread).unwrap());
                    let mine = mine.step_by(usize::try_from(THREADS).unwrap());
                    scope.spawn(move || mine.for_each(|case| drop(self.send(&case.bytes))));
                }
            });
            self.settle(tokened);
        }
    }

    /// Sends these requests, each numbered by its place.
    #[track_caller]
    pub fn table(&self, cases: &[(String, Case)]) {
        for (number, (what, case)) in cases.iter().enumerate() {
            for response in self.send(&case.bytes).unwrap_or_default() {
                assert!(response.status != 503, "{what}: {response:?}");
            }
            if number % 200 == 199 || number + 1 == cases.len() {
                let number_of = |number: u64| usize::try_from(number).ok();
                self.settle(|at| number_of(at).is_some_and(|at| cases[at].1.token));
            }
        }
    }

    /// Sends one request, and looks at the answers to it.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> io::Result<Vec<Response>> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let responses = send(self.to, self.tls.as_ref(), bytes, self.patience);
        for response in responses.iter().flatten() {
            *self.statuses.lock().unwrap().entry(response.status).or_default() += 1;
            let is_fault = response.status == 500 || response.status == 503;
            assert!(!is_fault, "{} is answered {response:?}", bytes.escape_ascii());
            for (name, value) in &response.headers {
                let managed = is_managed(name.as_bytes());
                let expected = managed.and_then(|at| *self.user.get(at)?);
                assert!(
                    managed.is_none() || expected.map(str::as_bytes) == Some(value),
                    "{} is answered {response:?}",
                    bytes.escape_ascii()
                );
            }
        }
        if responses.as_ref().map_or(true, Vec::is_empty) {
            self.silent.fetch_add(1, Ordering::Relaxed);
        }
        responses
    }

    /// A good request goes through, and nothing arrived so far that may not. `tokened` says which numbers had
    /// a good token.
    #[track_caller]
    pub fn settle(&self, tokened: impl Fn(u64) -> bool) {
        let good = self.send(&self.good).unwrap();
        let [good] = &good[..] else { panic!("a good request is answered {good:?}") };
        assert_eq!(good.status, 200, "{good:?}");
        let Some(upstream) = self.upstream else {
            for (name, value) in CONTEXT.into_iter().zip(self.user) {
                assert_eq!(good.header(name), value.map(str::as_bytes));
            }
            return;
        };
        let mut goods = 0;
        for heard in upstream.take() {
            self.arrived.fetch_add(1, Ordering::Relaxed);
            let number = heard.values(NUMBER);
            let is_good = number == [b"good"];
            goods += usize::from(is_good);
            // Something may have been folded into it.
            let digits = number.first().and_then(|text| text.split(|b| !b.is_ascii_digit()).next());
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            assert_clean(&heard, self.user, is_good || number.is_some_and(&tokened));
            for value in heard.values("authorization") {
                let value = String::from_utf8_lossy(value);
                let scheme = value.split_once(&self.token).map(|(before, _)| before);
                // Glued to it, or without a scheme, it is no bearer token to anybody.
                let is_kept = scheme.is_some_and(|scheme| {
                    scheme.trim_ascii_end() != scheme
                        && scheme.trim_ascii_end().to_ascii_lowercase().ends_with("bearer")
                });
                assert!(!is_kept, "the token went further: {heard:?}");
            }
            if is_good {
                for (name, value) in CONTEXT.into_iter().zip(self.user) {
                    let expected: Vec<_> = value.iter().map(|value| value.as_bytes()).collect();
                    assert_eq!(heard.values(name), expected, "{heard:?}");
                }
            }
        }
        assert_eq!(goods, 1, "the good request has arrived once");
    }

    /// Prints what was done.
    pub fn report(&self, what: &str) {
        println!(
            "{what}: {} requests in {:.1?}: answers {:?}, none to {}, {} reached the upstream",
            self.sent.load(Ordering::Relaxed),
            self.start.elapsed(),
            self.statuses.lock().unwrap(),
            self.silent.load(Ordering::Relaxed),
            self.arrived.load(Ordering::Relaxed),
        );
    }
}

/// Which of the managed headers the least careful reader takes this name for: one to whom all signs are alike.
fn is_managed(name: &[u8]) -> Option<usize> {
    let sign =
        |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    let name: Vec<u8> = name.trim_ascii().iter().map(sign).collect();
    MANAGED.iter().position(|managed| name == managed.as_bytes())
}

/// Nothing in this request says anything of a user or a service but that it is `user`, if it may.
#[track_caller]
pub fn assert_clean(heard: &Heard, user: [Option<&str>; 4], may: bool) {
    for line in heard.lines() {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let Some(managed) = is_managed(&line[..colon]) else { continue };
        // The order of `MANAGED` is that of a context.
        let expected = user.get(managed).copied().flatten();
        let is_exact = &line[..colon] == MANAGED[managed].as_bytes();
        let value = line[colon + 1..].trim_ascii();
        assert!(
            may && is_exact && expected.map(str::as_bytes) == Some(value),
            "{} in {heard:?}",
            line.escape_ascii()
        );
    }
    for name in CONTEXT {
        assert!(heard.values(name).len() <= 1, "{name} in {heard:?}");
    }
}
