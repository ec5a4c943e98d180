//! What each kind of request has the module do.

use std::time::Duration;

use crate::budgets::{self, Budget, Overrun};
use crate::heads::{Headers, asserting, bearing, browser, to, with};
use crate::host::{Cost, Stream, Vm};
use crate::scenes::{GATEWAY, START, gateway_config, loaded, ready, shipped, token};
use crate::tokens::{Rs256, claims};

/// What happens, as it is measured.
type Measure = fn() -> Cost;

const MEASURED: [(&Budget, Measure); 13] = [
    (&budgets::START, start),
    (&budgets::IDLE_TICK, idle_tick),
    (&budgets::BUSY_TICK, busy_tick),
    (&budgets::ANONYMOUS, anonymous),
    (&budgets::WARM, warm),
    (&budgets::WARM_FORGING, warm_forging),
    (&budgets::COLD, cold),
    (&budgets::TOKEN_MISSING, token_missing),
    (&budgets::TOKEN_EXPIRED, token_expired),
    (&budgets::TOKEN_FORGED, token_forged),
    (&budgets::TOKEN_GARBAGE, token_garbage),
    (&budgets::SERVICE_WARM, service_warm),
    (&budgets::EGRESS_WARM, egress_warm),
];

#[test]
fn nothing_costs_more_than_its_budget() {
    println!(
        "\n| event | host calls | handed over | instructions | its budget | host calls by name |\n|---|---:|---:|---:|---:|---|"
    );
    let overruns: Vec<Overrun> = MEASURED
        .iter()
        .filter_map(|(budget, measure)| {
            let cost = measure();
            println!("{}", budget.row(&cost));
            budget.check(&cost).err()
        })
        .collect();
    assert!(overruns.is_empty(), "{}", budgets::told(&overruns));
}

/// Whatever the table is made to say: these are what makes workers wait for each other, or costs a system call.
#[test]
fn no_warm_request_asks_for_what_is_shared_or_slow() {
    use budgets::{ANONYMOUS, EGRESS_WARM, SERVICE_WARM, WARM, WARM_FORGING};
    let kept_out = ["shared", "http_call", "metric", "foreign", "log"];
    for budget in [&ANONYMOUS, &WARM, &WARM_FORGING, &SERVICE_WARM, &EGRESS_WARM] {
        for name in budget.host_calls() {
            assert!(!kept_out.iter().any(|part| name.contains(part)), "{name}");
        }
    }
}

#[test]
fn what_is_measured_once_is_measured_the_same_again() {
    assert_eq!(warm(), warm());
}

/// Loading the module and configuring it.
fn start() -> Cost {
    let mut vm = loaded();
    vm.configure(&gateway_config());
    vm.spent()
}

fn idle_tick() -> Cost {
    let mut vm = ready(&gateway_config());
    vm.cost(|vm| vm.tick_after(Duration::from_millis(100))).1
}

/// The tick that tells Envoy of the first requests.
fn busy_tick() -> Cost {
    let mut vm = warmed();
    vm.tick_after(Duration::from_millis(100));
    for _ in 0..100 {
        vm.request(bearing(&token("user_2abc")), &[]);
    }
    vm.cost(|vm| vm.tick_after(Duration::from_millis(100))).1
}

fn anonymous() -> Cost {
    let mut vm = ready(&gateway_config());
    let (stream, cost) = vm.cost(|vm| vm.request(to(browser(), "/healthz"), &[]));
    assert_eq!(facts(&stream), ["meshgate.decision=allowed"]);
    assert!(stream.goes_on);
    cost
}

/// A gateway that knows the token and the user.
fn warmed() -> Vm {
    let mut vm = ready(&gateway_config());
    for _ in 0..2 {
        assert!(vm.request(bearing(&token("user_2abc")), &[]).goes_on);
    }
    vm
}

fn warm() -> Cost {
    of_user(&mut warmed(), bearing(&token("user_2abc")))
}

fn warm_forging() -> Cost {
    let forged = [("x-user-id", "u-0"), ("x-user-role", "ADMIN"), ("x_user_role", "ADMIN")];
    of_user(&mut warmed(), with(bearing(&token("user_2abc")), &forged))
}

/// The first request of a user in this worker: a signature is verified, and the user looked up.
fn cold() -> Cost {
    of_user(&mut ready(&gateway_config()), bearing(&token("user_2abc")))
}

/// What it costs to let a user's request go on, and that the upstream sees whose it is.
#[track_caller]
fn of_user(vm: &mut Vm, head: Headers) -> Cost {
    let (stream, cost) = vm.cost(|vm| vm.request(head, &[]));
    assert!(stream.goes_on, "{stream:?}");
    let context =
        ["x-user-id", "x-user-clerk-id", "x-user-role", "x-user-channel-id", "x-user-permissions"];
    assert_eq!(
        context.map(|name| stream.value(name).unwrap()),
        ["u-user_2abc", "user_2abc", "USER", "ch-user_2abc", "video:create,comment:create"]
    );
    assert_eq!(stream.value("authorization"), None);
    assert_eq!(stream.value("x_user_role"), None);
    assert_eq!(
        facts(&stream),
        [
            "meshgate.decision=allowed",
            "meshgate.provider=clerk",
            "meshgate.subject=user_2abc",
            "meshgate.user_id=u-user_2abc"
        ]
    );
    cost
}

fn token_missing() -> Cost {
    refused(browser(), "token_missing")
}

fn token_expired() -> Cost {
    let token = Rs256::new().token(&claims("user_2abc", START - 7_200));
    refused(bearing(&token), "token_expired")
}

/// The signature is of another token.
fn token_forged() -> Cost {
    let (mine, theirs) = (token("user_2abc"), token("user_9xyz"));
    let (claims, _) = theirs.rsplit_once('.').unwrap();
    let (_, signature) = mine.rsplit_once('.').unwrap();
    refused(bearing(&format!("{claims}.{signature}")), "signature_invalid")
}

fn token_garbage() -> Cost {
    refused(bearing(&"A".repeat(800)), "token_malformed")
}

/// What it costs to refuse a request, the second one of its kind.
#[track_caller]
fn refused(head: Headers, code: &str) -> Cost {
    let mut vm = warmed();
    vm.request(head.clone(), &[]);
    let (stream, cost) = vm.cost(|vm| vm.request(head, &[]));
    assert!(!stream.goes_on);
    let reply = stream.reply.unwrap();
    assert_eq!(reply.status, 401);
    assert!(reply.body.contains(code), "{}", reply.body);
    cost
}

/// A request that the gateway sent, at the door of a service.
fn service_warm() -> Cost {
    let mut vm = ready(&shipped("sidecar.yaml"));
    let mut measured =
        || vm.cost(|vm| vm.request(to(asserting(browser()), "/videos/1"), &[GATEWAY]));
    measured();
    let (stream, cost) = measured();
    assert!(stream.goes_on, "{stream:?}");
    assert_eq!(stream.value("x-user-id"), Some("u-2001"));
    cost
}

/// A request that the service makes of another, with its own token.
fn egress_warm() -> Cost {
    let mut vm = ready(&shipped("egress.yaml"));
    let hop: [(&str, &[u8]); 1] = [("xds.cluster_name", b"channels")];
    let mut measured = || vm.cost(|vm| vm.request(to(asserting(browser()), "/channels/1"), &hop));
    measured();
    let (stream, cost) = measured();
    assert!(stream.goes_on, "{stream:?}");
    assert_eq!(stream.value("x-user-id"), Some("u-2001"));
    assert_eq!(stream.value("x-service-name"), Some("videos"));
    assert!(stream.value("x-service-authorization").unwrap().starts_with("Bearer aaa"));
    cost
}

fn facts(stream: &Stream) -> Vec<String> {
    stream.facts.iter().map(|(name, value)| format!("{name}={value}")).collect()
}
