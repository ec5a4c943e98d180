//! Whole requests: what the shell has the core do for each, without the shell's host calls.

use divan::Bencher;
use meshgate::worker::Disposition;

use crate::heads::{bearing, browser, to};
use crate::setting::{TOKEN, fields, request, worker};

/// Token and user are known.
#[divan::bench]
fn warm(bencher: Bencher<'_, '_>) {
    let head = bearing(&TOKEN);
    let mut worker = worker(&head);
    assert!(matches!(request(&mut worker, fields(&head)), Disposition::Forward(..)));
    bencher.with_inputs(|| fields(&head)).bench_local_values(|head| request(&mut worker, head));
}

#[divan::bench]
fn anonymous(bencher: Bencher<'_, '_>) {
    let head = to(browser(), "/healthz");
    let mut worker = worker(&head);
    assert!(matches!(request(&mut worker, fields(&head)), Disposition::Forward(..)));
    bencher.with_inputs(|| fields(&head)).bench_local_values(|head| request(&mut worker, head));
}

/// There is no token.
#[divan::bench]
fn refused(bencher: Bencher<'_, '_>) {
    let head = browser();
    let mut worker = worker(&head);
    assert!(matches!(request(&mut worker, fields(&head)), Disposition::Deny(_)));
    bencher.with_inputs(|| fields(&head)).bench_local_values(|head| {
        let denied = request(&mut worker, head);
        worker.take_log();
        denied
    });
}
