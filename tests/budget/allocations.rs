//! How often the core allocates for a request that it knows all about, and how much: natively, where a counting
//! allocator can stand in. The shell's own allocations, and the host's, are not in it.

use std::hint::black_box;

use allocation_counter::{AllocationInfo, measure};
use meshgate::account::Account;
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Answer, StreamId};
use meshgate::config::Config;
use meshgate::headers::{Field, Stripped};
use meshgate::signature::Crypto;
use meshgate::time::UnixTime;
use meshgate::worker::{Disposition, Worker};
use serde_json::Value;

use crate::budgets::{self, AllocationBudget, Overrun};
use crate::heads::{Headers, asserting, bearing, browser, to, with};
use crate::scenes::{self, GATEWAY, START, gateway_config, shipped, token};

/// What is sent, to a worker that knows of it.
struct Case {
    budget: &'static AllocationBudget,
    config: Value,
    head: Headers,
    hop: Hop,
}

#[test]
fn nothing_allocates_more_than_its_budget() {
    let user = token("user_2abc");
    let forged = [("x-user-id", "u-0"), ("x-user-role", "ADMIN"), ("x_user_role", "ADMIN")];
    let gateway =
        Hop { has_certificate: true, uri_san: Some(GATEWAY.1.to_vec()), ..Hop::default() };
    let case = |budget, head| Case { budget, config: gateway_config(), head, hop: Hop::default() };
    let cases = [
        case(&budgets::CORE_ANONYMOUS, to(browser(), "/healthz")),
        case(&budgets::CORE_WARM, bearing(&user)),
        case(&budgets::CORE_WARM_FORGING, with(bearing(&user), &forged)),
        case(&budgets::CORE_REFUSED, browser()),
        Case {
            budget: &budgets::CORE_SERVICE,
            config: shipped("sidecar.yaml"),
            head: to(asserting(browser()), "/videos/1"),
            hop: gateway,
        },
    ];
    println!(
        "\n| core, natively | allocations | budget | bytes | budget |\n|---|---:|---:|---:|---:|"
    );
    let overruns: Vec<Overrun> = cases
        .into_iter()
        .filter_map(|case| {
            let spent = case.measure();
            println!("{}", case.budget.row(&spent));
            case.budget.check(&spent).err()
        })
        .collect();
    assert!(overruns.is_empty(), "{}", budgets::told(&overruns));
}

impl Case {
    fn measure(&self) -> AllocationInfo {
        let now = UnixTime::from_secs(START);
        let config = self.config.to_string();
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        let mut worker = Worker::new(config, Crypto::Module, None, 1);
        assert!(worker.on_tick(now).is_empty());
        answer_calls(&mut worker, now);
        let config = worker.config();
        let fields = || {
            let field = |(name, value): &(String, Vec<u8>)| Field {
                name: name.clone(),
                value: value.clone(),
            };
            self.head.iter().map(field).collect::<Vec<_>>()
        };
        // As the shell does it, on the request's headers.
        let mut request = |head: Vec<Field>| {
            let (edits, head) = Stripped::strip(head, &config.context.managed);
            let disposition = worker.on_request(StreamId(1), &head, &self.hop, now);
            if let Some(account) = Account::of(&disposition, &config) {
                black_box(account.facts().count());
            }
            black_box(&edits);
            if disposition == Disposition::Pause {
                answer_calls(&mut worker, now);
            }
            worker.take_log();
            black_box(&disposition);
        };
        // The first is looked up, and the second moves what is known of it among what was used again.
        for _ in 0..3 {
            request(fields());
        }
        let head = fields();
        measure(|| request(head))
    }
}

fn answer_calls(worker: &mut Worker, now: UnixTime) {
    while let Some(call) = worker.next_call() {
        let headers = &call.request.headers;
        let path = headers.iter().find(|(name, _)| name == ":path").unwrap().1.as_str();
        let (status, body) = scenes::answer(&call.request.cluster, path);
        let answer = Answer::Response { status, max_age: None, etag: None, body };
        let _ = worker.on_answer(call.id, &answer, now);
    }
}
