//! The load generator, against the harness's own server.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::client::Request;
use harness::load::{Load, Report};
use harness::server::{Answer, Behavior, Server};

const LOAD: Load = Load { connections: 4, count: 1000, time_limit: Duration::from_secs(30) };

#[test]
fn each_request_is_sent_once_and_its_answer_counted() {
    let server = Server::start(|seen| {
        if seen.path.ends_with('7') {
            Answer::problem(404, "as the test asked").header("connection", "close")
        } else {
            Answer::new(200, "text/plain", seen.path.clone())
        }
    });
    let report = LOAD.run(|number| Request::get(server.address(), format!("/{number}")));
    assert_eq!(report.statuses, BTreeMap::from([(200, 900), (404, 100)]), "{report:?}");
    assert_eq!((report.failures.len(), report.durations.len()), (0, 1000), "{report:?}");
    let mut paths: Vec<_> = server.take().into_iter().map(|seen| seen.path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 1000);
}

#[test]
fn requests_that_break_off_are_failures_and_the_next_are_sent() {
    let server = Server::start(|_| Answer::new(200, "text/plain", ""));
    server.behave(Behavior::Reset);
    let report = Load { count: 20, ..LOAD }.run(|_| Request::get(server.address(), "/"));
    assert_eq!((report.failures.len(), report.durations.len()), (20, 0), "{report:?}");
    assert_eq!(server.requests(), 20);
    assert!(report.failures[0].starts_with("GET / to 127.0.0.1"), "{report:?}");
}

#[test]
fn a_request_that_finds_its_idle_connection_closed_is_sent_once_more() {
    let server = Server::start(|_| Answer::new(200, "text/plain", ""));
    let load = Load { connections: 1, count: 9, ..LOAD };
    let report = load.run_while(
        |number| {
            if number % 3 == 2 {
                // This takes the connection, too.
                server.shut();
                server.reopen();
            }
            Some(Request::get(server.address(), "/"))
        },
        |_, _| {},
    );
    assert_eq!((report.failures.len(), report.retried), (0, 3), "{report:?}");
    server.behave(Behavior::Reset);
    let report = load.run_while(|_| Some(Request::get(server.address(), "/")), |_, _| {});
    assert_eq!((report.failures.len(), report.retried), (9, 0), "on new ones: {report:?}");
}

#[test]
fn the_time_limit_ends_it() {
    let server = Server::start(|_| Answer::new(200, "text/plain", ""));
    let load = Load { count: u64::MAX, time_limit: Duration::from_millis(100), ..LOAD };
    let report = load.run(|_| Request::get(server.address(), "/"));
    assert!(report.elapsed < Duration::from_secs(10), "{report:?}");
    assert!(report.statuses[&200] > 0, "{report:?}");
}

#[test]
fn a_percentile_is_the_duration_that_so_many_stayed_within() {
    let durations = (1..=200).map(Duration::from_millis).collect();
    let report = Report { durations, ..Report::default() };
    for (part, millis) in [(0.0, 1), (0.005, 1), (0.5, 100), (0.99, 198), (1.0, 200)] {
        assert_eq!(report.percentile(part), Duration::from_millis(millis), "{part}");
    }
    assert_eq!(Report::default().percentile(0.5), Duration::ZERO);
}
