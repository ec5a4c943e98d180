//! Load: many requests over a few connections, and how they were answered.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Request, Response, TIMEOUT, closed_unanswered};

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections, each on a thread. On each, a response is read before the next request is sent.
    pub connections: usize,
    /// How many requests, over all connections.
    pub count: u64,
    /// No request is sent after this time, however many are left.
    pub time_limit: Duration,
}

impl Load {
    /// Sends the requests that `request` makes of their numbers, from 0 on; all must go to one address.
    /// Returns when each is answered, has failed, or is not sent for want of time.
    pub fn run(&self, request: impl Fn(u64) -> Request + Sync) -> Report {
        self.drive(false, |number| Some(request(number)), |_, _| {})
    }

    /// [`Load::run`] until `request` has no more, showing each answer with its request's number.
    ///
    /// A request that finds its idle connection closed, with no byte of an answer, is sent once more on a new one, as
    /// clients do (RFC 9112 section 9.3.1): the server may have closed it just then. So the requests must be such that
    /// may be made twice.
    pub fn run_while(
        &self,
        request: impl Fn(u64) -> Option<Request> + Sync,
        answered: impl Fn(u64, &Response) + Sync,
    ) -> Report {
        self.drive(true, request, answered)
    }

    fn drive(
        &self,
        retry: bool,
        request: impl Fn(u64) -> Option<Request> + Sync,
        answered: impl Fn(u64, &Response) + Sync,
    ) -> Report {
        let start = Instant::now();
        let next = AtomicU64::new(0);
        let connection = || {
            let mut stream = None;
            let mut report = Report::default();
            while start.elapsed() < self.time_limit {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.count {
                    break;
                }
                let Some(request) = request(number) else { break };
                let sent = Instant::now();
                let was_idle = stream.is_some();
                let mut outcome = exchange(&mut stream, &request);
                if retry && was_idle && outcome.as_ref().is_err_and(closed_unanswered) {
                    report.retried += 1;
                    outcome = exchange(&mut stream, &request);
                }
                match outcome {
                    Ok(response) => {
                        report.durations.push(sent.elapsed());
                        answered(number, &response);
                        *report.statuses.entry(response.status).or_default() += 1;
                    }
                    Err(error) => report.failures.push(format!("{request:?}: {error}")),
                }
            }
            report
        };
        let mut report = Report::default();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections).map(|_| scope.spawn(connection)).collect();
            for thread in threads {
                // It panics only where `request` does.
                report.add(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
        });
        report.elapsed = start.elapsed();
        report.durations.sort_unstable();
        report
    }
}

/// What became of the requests.
#[derive(Clone, Default)]
pub struct Report {
    /// How many were answered with each status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, and why.
    pub failures: Vec<String>,
    /// From each request's first byte to its response's last, the shortest first.
    pub durations: Vec<Duration>,
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// How many were sent once more: see [`Load::run_while`].
    pub retried: u64,
}

impl Report {
    /// The duration within which this part of the requests was answered: `percentile(0.99)`. Zero if none was.
    pub fn percentile(&self, part: f64) -> Duration {
        let rank = (self.durations.len() as f64 * part).ceil() as usize;
        self.durations.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.durations.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn add(&mut self, other: Report) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.durations.extend(other.durations);
        self.retried += other.retried;
    }
}

/// In one line, for the output of a test.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, last] = [0.5, 0.99, 1.0].map(|part| self.percentile(part));
        write!(
            f,
            "{:?} at {:.0}/s; p50 {half:.1?}, p99 {most:.1?}, max {last:.1?}; {} failed",
            self.statuses,
            self.rate(),
            self.failures.len()
        )?;
        self.failures.first().map_or(Ok(()), |first| write!(f, ", first {first}"))
    }
}

/// Sends on the connection, or on a new one if there is none, and keeps it if it can be used again.
fn exchange(connection: &mut Option<TcpStream>, request: &Request) -> io::Result<Response> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&request.to(), TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream
        }
    };
    let response = request.exchange(&mut stream)?;
    if response.header("connection") != Some(&b"close"[..]) {
        *connection = Some(stream);
    }
    Ok(response)
}
