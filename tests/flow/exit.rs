//! A service's own requests: what they may take along, where they go.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshgate::boundary::peer::Hop;
use meshgate::callout::{Dispatch, Failure, StreamId};
use meshgate::config::Config;
use meshgate::denial::Code;
use meshgate::headers::Edit;
use meshgate::log::Level;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{
    Flow, SharedData, config, denied, forwarded, only, ready_workers, removed, set, workers,
};

type Header<'a> = (&'a str, &'a [u8]);

/// The context headers as a service copies them.
const CONTEXT: [Header<'static>; 4] = [
    ("x-user-id", b"u-1001"),
    ("x-user-clerk-id", b"user_2abc"),
    ("x-user-role", b"USER"),
    ("x-user-channel-id", b"ch-2001"),
];
const OTHERS_CONTEXT: [Header<'static>; 2] = [("x-user-id", b"u-2002"), ("x-user-role", b"ADMIN")];
const ID: Header<'static> = ("x-request-id", b"r-1");
const GATEWAY: &str = "spiffe://cluster.local/ns/edge/sa/gateway";
const MILLISECOND: Duration = Duration::from_millis(1);

/// A key made for these tests.
const ED25519: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"in-the-jwk","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const P256: &str = r#"{"kty":"EC","crv":"P-256","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn exit_config() -> Value {
    json!({
        "mode": "egress",
        "service": {"name": "videos-service"},
        "providers": {"clerk": {
            "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-token"}],
            "from_cookies": ["__session"],
            "from_params": ["access_token"],
        }},
        "destinations": [
            {"clusters": ["plain"], "context": "forward"},
            {"clusters": ["channels", "outbound|80||channels.*"], "context": "forward", "service_token": "mesh"},
            {"clusters": ["partner", "channels"], "user_token": "forward"},
            {"clusters": ["audit"], "service_token": "own"},
        ],
        "service_tokens": {
            "mesh": {"client_credentials": {
                "uri": "https://idp.internal/token", "cluster": "idp", "client_id": "videos-service",
                "client_secret": "hush", "scope": "internal:read",
            }},
            "own": {"sign": {
                "key": ED25519, "kid": "in-the-jwk", "alg": "EdDSA", "issuer": "mesh-auth", "audience": "mesh",
                "permissions": ["internal:read"],
            }, "header": {"name": "x-service-authorization"}},
        },
    })
}

fn exit() -> Flow {
    Flow::with(&exit_config())
}

fn send(flow: &mut Flow, cluster: &str, headers: &[Header<'_>]) -> (StreamId, Disposition) {
    flow.hop = Hop { cluster: Some(cluster.as_bytes().to_vec()), ..Hop::default() };
    let (stream, strip, disposition) = flow.send("/v1/channels", headers);
    // Whatever is decided, what the service sent is gone first.
    let managed = ["x-user", "x_user", "x-service-", "txn-token"];
    for (name, _) in headers.iter().filter(|(name, _)| managed.iter().any(|m| name.starts_with(m)))
    {
        assert!(strip.contains(&removed(name)), "{name}");
    }
    (stream, disposition)
}

/// What the upstream is told by these edits, but for its request id.
fn told(edits: &[Edit]) -> Vec<Edit> {
    let told = |edit: &&Edit| matches!(edit, Edit::Set(name, _) if name != "x-request-id");
    edits.iter().filter(told).cloned().collect()
}

fn whole_context() -> Vec<Edit> {
    CONTEXT.iter().map(|(name, value)| Edit::Set((*name).to_owned(), value.to_vec())).collect()
}

fn grant(token: &str, life: u64) -> Vec<u8> {
    json!({"access_token": token, "token_type": "Bearer", "expires_in": life})
        .to_string()
        .into_bytes()
}

/// With a token of this life.
fn exit_with_token(life: u64) -> Flow {
    let mut flow = exit();
    flow.tick();
    let call = flow.call();
    assert!(flow.answer(call.id, 200, &grant("t-1", life)).is_empty());
    flow
}

#[track_caller]
fn shown(disposition: Disposition) -> Vec<u8> {
    let edits = forwarded(disposition);
    let shown = edits.iter().rev().find_map(|edit| match edit {
        Edit::Set(name, value) if name == "authorization" => Some(value.clone()),
        Edit::Set(..) | Edit::Remove(_) => None,
    });
    shown.expect("a token is shown")
}

// Where a request goes, and what may go there.

#[test]
fn what_may_go_along_is_decided_by_the_cluster_and_the_first_that_fits_holds() {
    let mut flow = exit_with_token(3600);
    let context = whole_context();
    let name = vec![set("x-service-name", "videos-service")];
    let token = vec![set("authorization", "Bearer t-1")];
    for (cluster, expected) in [
        ("plain", [&context[..], &name].concat()),
        ("channels", [&context[..], &name, &token].concat()),
        ("outbound|80||channels.default.svc", [&context[..], &name, &token].concat()),
        ("partner", vec![]),
        ("channels-evil", vec![]),
        ("evil-channels", vec![]),
        ("outbound|81||channels.default.svc", vec![]),
        ("", vec![]),
        ("somebody else's", vec![]),
    ] {
        let (_, disposition) = send(&mut flow, cluster, &CONTEXT);
        assert_eq!(told(&forwarded(disposition)), expected, "{cluster}");
    }
}

#[test]
fn where_envoy_names_no_cluster_nothing_goes_along() {
    let mut config = exit_config();
    config["destinations"] =
        json!([{"clusters": ["*"], "context": "forward", "user_token": "forward"}]);
    let mut flow = Flow::with(&config);
    let headers = [CONTEXT[0], CONTEXT[2], ("authorization", &b"Bearer a.b.c"[..])];
    let (_, _, disposition) = flow.send("/x", &headers);
    let edits = forwarded(disposition);
    assert_eq!(told(&edits), []);
    assert!(edits.contains(&removed("authorization")));
    let (_, disposition) = send(&mut flow, "anything", &headers);
    let edits = forwarded(disposition);
    assert!(edits.contains(&set("x-user-id", "u-1001")));
    assert!(!edits.contains(&removed("authorization")));
}

#[test]
fn a_users_token_is_taken_off_wherever_one_may_stand_unless_the_destination_may_have_it() {
    let headers: [Header; 5] = [
        ("authorization", b"Basic dXNlcjpwYXNz"),
        ("x-token", b"a.b.c"),
        ("x_token", b"a.b.c"),
        ("cookie", b"theme=dark; __session=a.b.c"),
        ("accept", b"*/*"),
    ];
    for (cluster, kept) in [("partner", true), ("plain", false), ("nobody", false)] {
        let mut flow = exit();
        flow.hop = Hop { cluster: Some(cluster.as_bytes().to_vec()), ..Hop::default() };
        let (_, _, disposition) = flow.send("/x?access_token=a.b.c&page=2", &headers);
        let edits = forwarded(disposition);
        for edit in [
            removed("authorization"),
            removed("x-token"),
            set("cookie", "theme=dark"),
            set(":path", "/x?page=2"),
        ] {
            assert_eq!(!edits.contains(&edit), kept, "{cluster} {edit:?}");
        }
        assert!(edits.contains(&removed("x_token")), "no place of a token's");
        assert!(!edits.contains(&removed("accept")));
    }
}

#[test]
fn no_spelling_of_what_only_the_filter_may_say_gets_out() {
    let mut flow = exit();
    let forged: [Header; 8] = [
        ("X-User-Id", b"u-1"),
        ("x_user_id", b"u-1"),
        ("x-user_role", b"ADMIN"),
        ("x-service-name", b"payments"),
        ("x_service_name", b"payments"),
        ("x-service-authorization", b"Bearer x"),
        ("x_service_authorization", b"Bearer x"),
        ("txn-token", b"a.b.c"),
    ];
    for cluster in ["partner", "nobody", "audit"] {
        flow.hop = Hop { cluster: Some(cluster.as_bytes().to_vec()), ..Hop::default() };
        let (_, strip, disposition) = flow.send("/x", &forged);
        for (name, _) in forged {
            assert!(strip.contains(&removed(&name.to_ascii_lowercase())), "{name}");
        }
        let edits = told(&forwarded(disposition));
        assert_eq!(edits.contains(&set("x-service-name", "videos-service")), cluster == "audit");
        assert!(
            !edits.iter().any(|edit| matches!(edit, Edit::Set(name, _) if name == "x-user-id"))
        );
    }
}

#[test]
fn a_token_that_another_service_showed_goes_nowhere() {
    let mut config = exit_config();
    // As at the door.
    config["providers"]["mesh"] = json!({
        "type": "service", "issuer": "mesh-auth", "from_headers": [{"name": "x-service-authorization"}],
    });
    config["providers"]["old"] = json!({"type": "service", "from_headers": [{"name": "x-old"}]});
    let mut flow = Flow::with(&config);
    flow.hop = Hop { cluster: Some(b"partner".to_vec()), ..Hop::default() };
    let shown: [Header<'_>; 2] =
        [("x-service-authorization", b"Bearer a.b.c"), ("x_old", b"a.b.c")];
    let (_, strip, disposition) = flow.send("/x", &shown);
    assert!(shown.iter().all(|(name, _)| strip.contains(&removed(name))));
    assert_eq!(told(&forwarded(disposition)), []);
    assert!(own_token(&mut flow).starts_with("Bearer "));
}

#[test]
fn a_context_that_cannot_be_read_in_one_way_is_refused() {
    let cases: [&[Header]; 5] = [
        &[("x-user-id", b"u-1"), ("x-user-id", b"u-2"), ("x-user-role", b"USER")],
        &[("x-user-id", b"u-1"), ("x_user_id", b"u-2"), ("x-user-role", b"USER")],
        &[("x-user-id", b"u-1\xff"), ("x-user-role", b"USER")],
        &[("x-user-id", b""), ("x-user-role", b"USER")],
        &[("x-user-id", b"u-1")],
    ];
    for headers in cases {
        assert_eq!(denied(&send(&mut exit(), "plain", headers).1), Code::UntrustedPeer);
        assert_eq!(told(&forwarded(send(&mut exit(), "nobody", headers).1)), []);
    }
    let edits = told(&forwarded(send(&mut exit(), "plain", &[]).1));
    assert_eq!(edits, [set("x-service-name", "videos-service")]);
}

// The context of the request that came in.

/// A worker at the door and one at the exit of a service, in one process.
fn door_and_exit(data: &SharedData) -> (Flow, Flow) {
    door_with(data, |_| ())
}

fn door_with(data: &SharedData, change: impl FnOnce(&mut Value)) -> (Flow, Flow) {
    let mut door = config();
    change(&mut door);
    door["mode"] = json!("service");
    door["service"] = json!({"name": "videos-service"});
    door["boundary"] = json!({"peers": [{"spiffe_id": GATEWAY, "may_assert_user": true}]});
    let mut exit = exit_config();
    for config in [&mut door, &mut exit] {
        config["sharing"] = json!({"key": "sixteen random bytes"});
        config["propagation"] = json!({"by_request_id": true});
    }
    let mut door = ready_workers(&door, 1, data).remove(0);
    door.hop = Hop { uri_san: Some(GATEWAY.as_bytes().to_vec()), ..Hop::default() };
    (door, workers(&exit, 2, data).remove(1))
}

#[track_caller]
fn comes_in(door: &mut Flow, path: &str, headers: &[Header<'_>]) {
    forwarded(door.send(path, headers).2);
}

fn with_id<'a>(headers: &[Header<'a>]) -> Vec<Header<'a>> {
    [&[ID], headers].concat()
}

fn under<'a>(id: &'a str, headers: &[Header<'a>]) -> Vec<Header<'a>> {
    [&[("x-request-id", id.as_bytes())], headers].concat()
}

#[test]
fn context_that_the_service_did_not_copy_is_that_of_the_request_with_the_same_id() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    comes_in(&mut door, "/x", &with_id(&CONTEXT));
    let expected = [whole_context(), vec![set("x-service-name", "videos-service")]].concat();
    for copied in [&CONTEXT[..0], &CONTEXT[..1], &CONTEXT[2..], &CONTEXT[..]] {
        let (_, disposition) = send(&mut exit, "plain", &with_id(copied));
        assert_eq!(told(&forwarded(disposition)), expected);
    }
    assert_eq!(told(&forwarded(send(&mut exit, "nobody", &with_id(&CONTEXT)).1)), []);
    let other_id = [("x-request-id", &b"r-2"[..])];
    let alone = [set("x-service-name", "videos-service")];
    assert_eq!(told(&forwarded(send(&mut exit, "plain", &other_id).1)), alone);
    assert_eq!(told(&forwarded(send(&mut exit, "plain", &[]).1)), alone);
}

#[test]
fn what_envoy_writes_into_an_id_when_it_traces_does_not_make_it_another() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    let told_by = |exit: &mut Flow, id: &[u8]| {
        told(&forwarded(send(exit, "plain", &[("x-request-id", id)]).1)).len()
    };
    let id = ("x-request-id", &b"b0a02e8c-699c-40bb-acb4-265e02379157"[..]);
    comes_in(&mut door, "/x", &[&[id], &CONTEXT[..]].concat());
    for marked in
        [&b"b0a02e8c-699c-90bb-acb4-265e02379157"[..], b"b0a02e8c-699c-b0bb-acb4-265e02379157"]
    {
        assert_eq!(told_by(&mut exit, marked), 5);
    }
    // Anything else does, and so does the same in an id that Envoy writes nothing into.
    assert_eq!(told_by(&mut exit, b"b0a02e8c-699c-41bb-acb4-265e02379157"), 1);
    let short = ("x-request-id", &b"b0a02e8c-699c-40bb"[..]);
    comes_in(&mut door, "/x", &[&[short], &CONTEXT[..]].concat());
    assert_eq!(told_by(&mut exit, b"b0a02e8c-699c-40bb"), 5);
    assert_eq!(told_by(&mut exit, b"b0a02e8c-699c-90bb"), 1);
}

#[test]
fn context_that_is_made_at_the_door_is_told_like_one_that_is_accepted_there() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    door.hop = Hop::default();
    let bearer = format!("Bearer {}", door.token());
    let (stream, _, disposition) = door.send("/x", &[ID, ("authorization", bearer.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let call = door.call();
    let record = crate::support::record().to_string();
    forwarded(only(door.answer(call.id, 200, record.as_bytes()), stream));
    let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
    assert!(edits.starts_with(&whole_context()), "{edits:?}");
}

/// RFC 9110 section 5.5: a tab is as good as a space within a value.
#[test]
fn a_value_with_a_tab_in_it_arrives_as_it_is() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    let with_tab = [CONTEXT[0], CONTEXT[2], ("x-user-channel-id", &b"ch\t2001"[..])];
    let expected = set("x-user-channel-id", "ch\t2001");
    let asserted = door.send("/x", &with_id(&with_tab)).2;
    assert!(forwarded(asserted).contains(&expected));
    door.hop = Hop::default();
    let bearer = format!("Bearer {}", door.token());
    let headers = [("x-request-id", &b"r-2"[..]), ("authorization", bearer.as_bytes())];
    let (stream, _, _) = door.send("/x", &headers);
    let call = door.call();
    let mut record = crate::support::record();
    record["channelId"] = json!("ch\t2001");
    let made = only(door.answer(call.id, 200, record.to_string().as_bytes()), stream);
    assert!(forwarded(made).contains(&expected));
    for id in ["r-1", "r-2"] {
        for copied in [&with_tab[..], &[]] {
            let (_, disposition) = send(&mut exit, "plain", &under(id, copied));
            assert!(forwarded(disposition).contains(&expected));
        }
        let spaced = [CONTEXT[0], CONTEXT[2], ("x-user-channel-id", &b"ch 2001"[..])];
        let (_, disposition) = send(&mut exit, "plain", &under(id, &spaced));
        assert_eq!(denied(&disposition), Code::ContextMismatch);
    }
}

#[test]
fn a_service_cannot_speak_for_a_user_whom_it_does_not_serve() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    comes_in(&mut door, "/x", &with_id(&CONTEXT[..3]));
    comes_in(&mut door, "/healthz", &[("x-request-id", b"r-anonymous")]);
    let cases: [(&str, Vec<Header>); 6] = [
        ("another user", with_id(&OTHERS_CONTEXT)),
        ("another role", with_id(&[CONTEXT[0], ("x-user-role", b"ADMIN")])),
        ("more than was told", with_id(&CONTEXT)),
        (
            "a user where there was none",
            [&[("x-request-id", &b"r-anonymous"[..])], &CONTEXT[..]].concat(),
        ),
        ("no such request", [&[("x-request-id", &b"r-2"[..])], &CONTEXT[..]].concat()),
        ("no id", CONTEXT.to_vec()),
    ];
    for (name, headers) in cases {
        let (_, disposition) = send(&mut exit, "plain", &headers);
        assert_eq!(denied(&disposition), Code::ContextMismatch, "{name}");
    }
}

#[test]
fn an_id_of_two_requests_with_different_contexts_speaks_for_nobody() {
    for second in [&OTHERS_CONTEXT[..], &[]] {
        let (mut door, mut exit) = door_and_exit(&SharedData::default());
        let path = if second.is_empty() { "/healthz" } else { "/x" };
        comes_in(&mut door, "/x", &with_id(&CONTEXT));
        comes_in(&mut door, "/x", &with_id(&CONTEXT));
        forwarded(send(&mut exit, "plain", &with_id(&CONTEXT)).1);
        comes_in(&mut door, path, &with_id(second));
        // Saying it again does not help.
        comes_in(&mut door, "/x", &with_id(&CONTEXT));
        for context in [&CONTEXT[..], &OTHERS_CONTEXT] {
            let (_, disposition) = send(&mut exit, "plain", &with_id(context));
            assert_eq!(denied(&disposition), Code::ContextMismatch);
        }
        let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
        assert_eq!(edits, [set("x-service-name", "videos-service")]);
        // And when that is over, the id is as good as any.
        door.advance(Duration::from_secs(60));
        exit.advance(Duration::from_secs(60));
        comes_in(&mut door, "/x", &with_id(&OTHERS_CONTEXT));
        let edits = forwarded(send(&mut exit, "plain", &[ID]).1);
        assert!(edits.contains(&set("x-user-id", "u-2002")));
    }
}

#[test]
fn a_request_without_a_user_makes_an_id_that_a_users_has_nobodys_whichever_came_first() {
    for user_first in [true, false] {
        let (mut door, mut exit) = door_and_exit(&SharedData::default());
        let order = if user_first { ["/x", "/healthz"] } else { ["/healthz", "/x"] };
        for path in order {
            let headers = if path == "/x" { with_id(&CONTEXT) } else { vec![ID] };
            comes_in(&mut door, path, &headers);
        }
        let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
        assert_eq!(edits, [set("x-service-name", "videos-service")]);
        let (_, disposition) = send(&mut exit, "plain", &with_id(&CONTEXT));
        assert_eq!(denied(&disposition), Code::ContextMismatch);
    }
}

#[test]
fn a_flood_of_requests_without_a_user_pushes_nothing_out() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    let ids: Vec<String> = (0..300).map(|number| format!("r-{number}")).collect();
    let (known, ambiguous) = ids.split_at(150);
    for id in &ids {
        comes_in(&mut door, "/x", &under(id, &CONTEXT));
    }
    for id in ambiguous {
        comes_in(&mut door, "/x", &under(id, &OTHERS_CONTEXT));
    }
    for number in 0..4_000 {
        door.advance(MILLISECOND);
        let id = format!("flood-{number}");
        comes_in(&mut door, "/public", &under(&id, &[]));
    }
    exit.now = door.now;
    for id in known {
        forwarded(send(&mut exit, "plain", &under(id, &CONTEXT)).1);
    }
    for id in ambiguous {
        comes_in(&mut door, "/x", &under(id, &CONTEXT));
        let (_, disposition) = send(&mut exit, "plain", &under(id, &CONTEXT));
        assert_eq!(denied(&disposition), Code::ContextMismatch, "{id}");
    }
}

#[test]
fn a_request_that_waited_does_not_undo_what_came_in_meanwhile() {
    let data = SharedData::default();
    let (mut door, mut exit) = door_with(&data, |config| {
        config["user"]["lookup"]["timeout"] = json!("20s");
    });
    let gateway = std::mem::take(&mut door.hop);
    let bearer = format!("Bearer {}", door.token());
    let (stream, _, disposition) = door.send("/x", &[ID, ("authorization", bearer.as_bytes())]);
    assert_eq!(disposition, Disposition::Pause);
    let call = door.call();
    door.advance(Duration::from_millis(1_500));
    door.hop = gateway;
    comes_in(&mut door, "/x", &with_id(&OTHERS_CONTEXT));
    let record = crate::support::record().to_string();
    forwarded(only(door.answer(call.id, 200, record.as_bytes()), stream));
    // Nor for as long as either of them is remembered.
    for wait in [Duration::ZERO, Duration::from_millis(59_999)] {
        exit.now = door.now.after(wait);
        for context in [&CONTEXT[..], &OTHERS_CONTEXT] {
            let (_, disposition) = send(&mut exit, "plain", &with_id(context));
            assert_eq!(denied(&disposition), Code::ContextMismatch);
        }
    }
    let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
    assert_eq!(edits, [set("x-service-name", "videos-service")]);
}

#[test]
fn a_request_that_waited_is_remembered_for_a_minute_from_when_it_went_on() {
    let data = SharedData::default();
    let (mut door, mut exit) = door_with(&data, |config| {
        config["user"]["lookup"]["timeout"] = json!("20s");
    });
    door.hop = Hop::default();
    let bearer = format!("Bearer {}", door.token());
    let (stream, _, _) = door.send("/x", &[ID, ("authorization", bearer.as_bytes())]);
    let call = door.call();
    door.advance(Duration::from_secs(15));
    let record = crate::support::record().to_string();
    forwarded(only(door.answer(call.id, 200, record.as_bytes()), stream));
    exit.now = door.now.after(Duration::from_millis(59_999));
    forwarded(send(&mut exit, "plain", &with_id(&CONTEXT)).1);
}

#[test]
fn a_request_of_which_the_exit_cannot_be_told_is_refused() {
    let data = SharedData::default();
    let (mut door, mut exit) = door_and_exit(&data);
    comes_in(&mut door, "/x", &with_id(&CONTEXT));
    data.contend(true);
    let _ = door.worker.take_log();
    for _ in 0..2 {
        for (path, context) in [("/x", &OTHERS_CONTEXT[..]), ("/healthz", &[])] {
            let (_, _, disposition) = door.send(path, &with_id(context));
            let Disposition::Deny(denial) = disposition else { panic!("{disposition:?}") };
            assert_eq!(denial.code.name(), "propagation_unavailable");
            assert_eq!(denial.code.status(), 503);
        }
    }
    let lines = door.worker.take_log();
    let warned = lines.iter().filter(|(level, _)| *level == Level::Warn).count();
    assert_eq!(warned, 1, "{lines:?}");
    // What was told before is still the one request's that is served.
    let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
    assert!(edits.starts_with(&whole_context()));
    data.contend(false);
    comes_in(&mut door, "/x", &with_id(&OTHERS_CONTEXT));
    let (_, disposition) = send(&mut exit, "plain", &with_id(&OTHERS_CONTEXT));
    assert_eq!(denied(&disposition), Code::ContextMismatch);
}

#[test]
fn what_was_told_is_over_after_a_minute() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    comes_in(&mut door, "/x", &with_id(&CONTEXT));
    exit.advance(Duration::from_millis(59_999));
    forwarded(send(&mut exit, "plain", &with_id(&CONTEXT)).1);
    exit.advance(MILLISECOND);
    let (_, disposition) = send(&mut exit, "plain", &with_id(&CONTEXT));
    assert_eq!(denied(&disposition), Code::ContextMismatch);
}

#[test]
fn what_others_write_on_the_board_is_no_context() {
    let data = SharedData::default();
    let (mut door, mut exit) = door_and_exit(&data);
    comes_in(&mut door, "/x", &with_id(&CONTEXT));
    data.fill(br#"[["x-user-id","u-2002"]]"#);
    let edits = told(&forwarded(send(&mut exit, "plain", &[ID]).1));
    assert_eq!(edits, [set("x-service-name", "videos-service")]);
    let (_, disposition) = send(&mut exit, "plain", &with_id(&OTHERS_CONTEXT));
    assert_eq!(denied(&disposition), Code::ContextMismatch);
}

#[test]
fn a_context_that_is_too_long_to_remember_is_nobodys() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    let long = vec![b'x'; 5_000];
    let context = [("x-user-id", long.as_slice()), ("x-user-role", &b"USER"[..])];
    comes_in(&mut door, "/x", &with_id(&context));
    assert_eq!(denied(&send(&mut exit, "plain", &with_id(&context)).1), Code::ContextMismatch);
    comes_in(&mut door, "/x", &with_id(&CONTEXT));
    assert_eq!(denied(&send(&mut exit, "plain", &with_id(&CONTEXT)).1), Code::ContextMismatch);
}

#[test]
fn a_thousand_requests_at_once_push_out_next_to_nothing_of_each_other() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    // Behind some that came before.
    let ids: Vec<String> = (0..3_000).map(|number| format!("r-{number}")).collect();
    let (before, now) = ids.split_at(2_000);
    for id in before {
        comes_in(&mut door, "/healthz", &[("x-request-id", id.as_bytes())]);
    }
    door.advance(MILLISECOND);
    for id in now {
        let headers = [&[("x-request-id", id.as_bytes())], &CONTEXT[..]].concat();
        comes_in(&mut door, "/x", &headers);
    }
    exit.now = door.now;
    let lost = now.iter().filter(|id| {
        let headers = [&[("x-request-id", id.as_bytes())], &CONTEXT[..]].concat();
        matches!(send(&mut exit, "plain", &headers).1, Disposition::Deny(_))
    });
    let lost = lost.count();
    assert!(lost <= 1, "{lost} of 1000");
}

// The service's own tokens.

#[test]
fn a_token_is_asked_for_by_client_credentials_when_envoy_starts() {
    let mut flow = exit();
    flow.tick();
    let Dispatch { id, request } = flow.call();
    let header = |name: &str| {
        let found = request.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(request.cluster, "idp");
    assert_eq!(header(":method"), Some("POST"));
    assert_eq!(header(":path"), Some("/token"));
    assert_eq!(header(":authority"), Some("idp.internal"));
    assert_eq!(header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(header("authorization"), Some("Basic dmlkZW9zLXNlcnZpY2U6aHVzaA=="));
    let body = request.body.as_deref().unwrap();
    assert_eq!(body, b"grant_type=client_credentials&scope=internal%3Aread");
    assert!(flow.answer(id, 200, &grant("t-1", 3600)).is_empty());
    let (_, disposition) = send(&mut flow, "channels", &[("authorization", b"Bearer user's")]);
    assert_eq!(shown(disposition), b"Bearer t-1");
    flow.no_call();
}

#[test]
fn all_requests_wait_for_one_token() {
    let mut flow = exit();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (stream, disposition) = send(&mut flow, "channels", &CONTEXT);
        assert_eq!(disposition, Disposition::Pause);
        streams.push(stream);
    }
    let call = flow.call();
    let released = flow.answer(call.id, 200, &grant("t-1", 3600));
    let served: Vec<StreamId> = released.iter().map(|(stream, _)| *stream).collect();
    assert_eq!(served, streams);
    for (_, disposition) in released {
        assert_eq!(shown(disposition), b"Bearer t-1");
    }
    // Who needs no token waits for none.
    forwarded(send(&mut exit(), "plain", &CONTEXT).1);
}

#[test]
fn a_token_is_asked_for_anew_at_four_fifths_of_its_life_and_shown_meanwhile() {
    let mut flow = exit_with_token(100);
    flow.advance(Duration::from_millis(79_999));
    flow.tick();
    flow.no_call();
    flow.advance(MILLISECOND);
    flow.tick();
    let call = flow.call();
    assert_eq!(shown(send(&mut flow, "channels", &[]).1), b"Bearer t-1");
    flow.answer(call.id, 200, &grant("t-2", 100));
    assert_eq!(shown(send(&mut flow, "channels", &[]).1), b"Bearer t-2");
}

#[test]
fn a_token_is_shown_until_five_seconds_before_its_end_though_its_issuer_is_down() {
    let mut flow = exit_with_token(100);
    flow.advance(Duration::from_millis(94_999));
    flow.tick();
    let call = flow.call();
    flow.fail_for_good(call.id, Failure::Broken);
    let mut flow = exit_with_token(100);
    flow.advance(Duration::from_millis(94_999));
    assert_eq!(shown(send(&mut flow, "channels", &[]).1), b"Bearer t-1");
    flow.advance(MILLISECOND);
    let (stream, disposition) = send(&mut flow, "channels", &[]);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let released = flow.answer_for_good(call.id, 503, b"");
    assert_eq!(denied(&only(released, stream)), Code::ServiceTokenUnavailable);
}

#[test]
fn a_token_lives_from_when_it_was_asked_for() {
    let mut flow = exit();
    flow.tick();
    let call = flow.call();
    flow.advance(Duration::from_millis(1_100));
    flow.answer(call.id, 200, &grant("t-1", 10));
    flow.advance(Duration::from_millis(3_900));
    assert_eq!(send(&mut flow, "channels", &[]).1, Disposition::Pause);
}

#[test]
fn a_token_that_is_over_by_the_time_it_comes_is_none() {
    let mut config = exit_config();
    config["service_tokens"]["mesh"]["client_credentials"]["timeout"] = json!("20s");
    let mut flow = Flow::with(&config);
    for _ in 0..5 {
        let (stream, _) = send(&mut flow, "channels", &[]);
        let call = flow.call();
        flow.advance(Duration::from_secs(5));
        let released = flow.answer(call.id, 200, &grant("t-1", 10));
        assert_eq!(denied(&only(released, stream)), Code::ServiceTokenUnavailable);
    }
    let lines = flow.worker.take_log();
    assert!(lines.iter().any(|(level, _)| *level == Level::Warn), "{lines:?}");
    // Asking again and again brings nothing, so it is left alone for a while.
    let (_, disposition) = send(&mut flow, "channels", &[]);
    assert_eq!(denied(&disposition), Code::ServiceTokenUnavailable);
    flow.tick();
    flow.no_call();
}

#[test]
fn an_answer_that_is_no_token_is_none_and_is_told_without_what_it_says() {
    let long = "x".repeat(8_193);
    let with = |name: &str, value: Value| {
        let mut grant = json!({"access_token": "hush-1", "token_type": "bearer", "expires_in": 60});
        grant[name] = value;
        grant.to_string()
    };
    for (status, body) in [
        (200, with("access_token", json!(""))),
        (200, with("access_token", json!("hush hush"))),
        (200, with("access_token", json!("hush\r\nx-user-id: u-1"))),
        (200, with("access_token", json!("hüsh"))),
        (200, with("access_token", json!(long))),
        (200, with("access_token", json!(["hush"]))),
        (200, with("token_type", json!("mac"))),
        (200, with("token_type", Value::Null)),
        (200, with("expires_in", Value::Null)),
        (200, with("expires_in", json!("60"))),
        (200, with("expires_in", json!(-1))),
        (200, with("expires_in", json!(5))),
        (
            200,
            r#"{"access_token":"hush","access_token":"b","token_type":"bearer","expires_in":60}"#
                .to_owned(),
        ),
        (200, r#"["hush"]"#.to_owned()),
        (200, "hush".to_owned()),
        (201, with("token_type", json!("bearer"))),
        (400, r#"{"error":"invalid_client","error_description":"hush"}"#.to_owned()),
        (500, "hush".to_owned()),
    ] {
        let mut flow = exit();
        let (stream, _) = send(&mut flow, "channels", &[]);
        let call = flow.call();
        let disposition = only(flow.answer(call.id, status, body.as_bytes()), stream);
        assert_eq!(denied(&disposition), Code::ServiceTokenUnavailable, "{status} {body}");
        let lines = flow.worker.take_log();
        assert!(
            lines
                .iter()
                .any(|(level, line)| *level == Level::Warn
                    && line.contains("service token name=mesh"))
        );
        assert!(!format!("{lines:?}").contains("hush"), "{lines:?}");
    }
}

#[test]
fn who_gives_no_tokens_is_left_alone_for_a_while() {
    for garbage in [true, false] {
        let mut flow = exit();
        for _ in 0..5 {
            let (stream, _) = send(&mut flow, "channels", &[]);
            let call = flow.call();
            let released = if garbage {
                flow.answer(call.id, 401, b"{}")
            } else {
                flow.fail_for_good(call.id, Failure::Broken)
            };
            assert_eq!(denied(&only(released, stream)), Code::ServiceTokenUnavailable);
        }
        let (_, disposition) = send(&mut flow, "channels", &[]);
        assert_eq!(denied(&disposition), Code::ServiceTokenUnavailable);
        flow.tick();
        flow.no_call();
        flow.advance(Duration::from_secs(1));
        flow.tick();
        let call = flow.call();
        flow.answer(call.id, 200, &grant("t-1", 60));
        assert_eq!(shown(send(&mut flow, "channels", &[]).1), b"Bearer t-1");
    }
}

#[test]
fn a_request_waits_for_a_token_no_longer_than_a_call_may_take() {
    let mut flow = exit();
    let (stream, _) = send(&mut flow, "channels", &[]);
    flow.call();
    let mut ended = None;
    for _ in 0..30 {
        flow.advance(Duration::from_millis(100));
        for released in flow.tick() {
            ended = Some(released);
        }
        while flow.worker.next_call().is_some() {}
    }
    let (released, disposition) = ended.expect("it ends");
    assert_eq!(released, stream);
    assert_eq!(denied(&disposition), Code::ServiceTokenUnavailable);
}

#[test]
fn a_clock_that_is_set_back_lengthens_no_tokens_life() {
    let mut flow = exit_with_token(60);
    flow.now = flow.now.before(Duration::from_secs(3_600));
    flow.tick();
    assert_eq!(send(&mut flow, "channels", &[]).1, Disposition::Pause);
    let call = flow.call();
    assert!(matches!(flow.answer(call.id, 200, &grant("t-2", 60)).as_slice(), [_]));
}

fn own_token(flow: &mut Flow) -> String {
    let edits = forwarded(send(flow, "audit", &[]).1);
    let token = edits.iter().find_map(|edit| match edit {
        Edit::Set(name, value) if name == "x-service-authorization" => Some(value.clone()),
        Edit::Set(..) | Edit::Remove(_) => None,
    });
    String::from_utf8(token.expect("a token")).unwrap()
}

fn public(jwk: &str, kid: &str) -> Value {
    let mut jwk: Value = serde_json::from_str(jwk).unwrap();
    jwk.as_object_mut().unwrap().remove("d");
    jwk["kid"] = json!(kid);
    jwk
}

#[test]
fn a_signed_token_is_good_at_the_door_of_a_service_and_names_who_signed_it() {
    for (key, kid, alg) in
        [(ED25519, Some("in-the-jwk"), "EdDSA"), (ED25519, None, "EdDSA"), (P256, None, "ES256")]
    {
        let mut config = exit_config();
        config["service_tokens"]["own"]["sign"]["key"] = json!(key);
        config["service_tokens"]["own"]["sign"]["alg"] = json!(alg);
        config["service_tokens"]["own"]["sign"]["kid"] = json!(kid);
        let mut exit = Flow::with(&config);
        let token = own_token(&mut exit);
        let mut door = crate::support::config();
        door["mode"] = json!("service");
        door["service"] = json!({"name": "audit"});
        let kid = kid.unwrap_or("in-the-jwk");
        door["providers"]["mesh"] = json!({
            "type": "service", "issuer": "mesh-auth", "audiences": ["mesh"],
            "local_jwks": {"keys": [public(key, kid)]},
            "from_headers": [{"name": "x-service-authorization", "value_prefix": "Bearer "}],
        });
        door["boundary"] =
            json!({"service_tokens": {"provider": "mesh", "permissions": ["internal:read"]}});
        door["rules"] = json!([{"match": {"path_prefix": "/internal"}, "require": "service"}]);
        let mut door = Flow::with(&door).with_keys();
        let headers = [("x-service-authorization", token.as_bytes())];
        let edits = forwarded(door.send("/internal", &headers).2);
        assert!(edits.contains(&set("x-service-name", "videos-service")), "{alg}");
        door.advance(Duration::from_secs(331));
        let late = door.send("/internal", &headers).2;
        assert_eq!(denied(&late), Code::TokenExpired);
    }
}

#[test]
fn a_signed_token_says_no_more_than_the_config() {
    let token = own_token(&mut exit());
    let mut parts = token.strip_prefix("Bearer ").unwrap().split('.');
    let mut part = || -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap()).unwrap()
    };
    assert_eq!(part(), json!({"alg": "EdDSA", "typ": "JWT", "kid": "in-the-jwk"}));
    let start = crate::support::START;
    assert_eq!(
        part(),
        json!({"iss": "mesh-auth", "sub": "videos-service", "aud": "mesh", "type": "service",
               "permissions": ["internal:read"], "iat": start, "exp": start + 300})
    );
}

#[test]
fn a_signed_token_is_signed_once_for_four_fifths_of_its_life() {
    let mut flow = exit();
    let first = own_token(&mut flow);
    flow.advance(Duration::from_millis(239_999));
    assert_eq!(own_token(&mut flow), first);
    flow.advance(MILLISECOND);
    assert_ne!(own_token(&mut flow), first);
    flow.tick();
    assert!(flow.call().request.cluster == "idp", "nobody is asked for it");
}

#[test]
fn no_secret_prints() {
    let flow = exit_with_token(60);
    let config = exit_config();
    let read = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    let printed = format!("{read:?} {:?}", flow.worker);
    for secret in ["hush", "aHVzaA", "nWGxne", "t-1"] {
        assert!(!printed.contains(secret), "{secret}");
    }
    let mut flow = exit();
    let (_, disposition) = send(&mut flow, "channels", &CONTEXT);
    assert_eq!(disposition, Disposition::Pause);
    let call = flow.call();
    let printed = format!("{:?} {call:?}", flow.worker);
    assert!(!printed.contains("u-1001") && !printed.contains("hush"), "{printed}");
}

#[test]
fn a_signed_context_goes_where_context_goes() {
    let signed = [("txn-token", &b"ey.ey.sig"[..])];
    let arrives = |flow: &mut Flow, cluster: &str| {
        let edits = forwarded(send(flow, cluster, &signed).1);
        told(&edits).contains(&set("txn-token", "ey.ey.sig"))
    };
    let mut flow = exit();
    assert!(arrives(&mut flow, "plain"));
    for cluster in ["partner", "audit", "elsewhere"] {
        assert!(!arrives(&mut flow, cluster), "{cluster}");
    }
    let twice = [("txn-token", &b"a"[..]), ("txn-token", &b"b"[..])];
    for headers in [&twice[..], &[("txn_token", &b"a"[..])]] {
        assert_eq!(denied(&send(&mut flow, "plain", headers).1), Code::UntrustedPeer);
    }
}

#[test]
fn a_signed_context_is_held_against_what_the_service_was_told() {
    let (mut door, mut exit) = door_and_exit(&SharedData::default());
    comes_in(&mut door, "/x", &with_id(&CONTEXT[..3]));
    let told_context =
        json!({"x-user-id": "u-1001", "x-user-clerk-id": "user_2abc", "x-user-role": "USER"});
    let with = |name: &str, value: Value| {
        let mut tctx = told_context.clone();
        tctx[name] = value;
        tctx
    };
    let token = |tctx: &Value| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"typ": "txntoken+jwt", "alg": "EdDSA", "kid": "g1"});
        format!("{}.{}.c2ln", part(header), part(json!({"tctx": tctx})))
    };
    let right = token(&told_context);
    // Which headers the service copies beside it is of no matter.
    for copied in [&CONTEXT[..0], &CONTEXT[..3]] {
        let headers = [&with_id(copied)[..], &[("txn-token", right.as_bytes())]].concat();
        let edits = told(&forwarded(send(&mut exit, "plain", &headers).1));
        assert!(edits.contains(&set("txn-token", &right)));
        assert!(edits.starts_with(&whole_context()[..3]), "{edits:?}");
        let elsewhere = told(&forwarded(send(&mut exit, "nobody", &headers).1));
        assert_eq!(elsewhere, []);
    }
    for (name, text) in [
        ("another user", token(&with("x-user-id", json!("u-2002")))),
        ("another role", token(&with("x-user-role", json!("ADMIN")))),
        ("more than was told", token(&with("x-user-channel-id", json!("ch-2001")))),
        ("more than is known here", token(&with("x-tenant", json!("t-2")))),
        ("less", token(&json!({"x-user-id": "u-1001"}))),
        ("nothing", token(&json!({}))),
        ("no text", token(&with("x-user-id", json!(["u-1001"])))),
        ("not readable", "ey.ey.sig".to_owned()),
        ("too long to look at", format!("{right}{}", "A".repeat(8_192))),
    ] {
        for copied in [&CONTEXT[..0], &CONTEXT[..3]] {
            let headers = [&with_id(copied)[..], &[("txn-token", text.as_bytes())]].concat();
            let (_, disposition) = send(&mut exit, "plain", &headers);
            assert_eq!(denied(&disposition), Code::ContextMismatch, "{name}");
        }
    }
    let alone = [("txn-token", right.as_bytes())];
    let others = [("x-request-id", &b"r-2"[..]), alone[0]];
    for headers in [&alone[..], &others] {
        assert_eq!(denied(&send(&mut exit, "plain", headers).1), Code::ContextMismatch);
    }
    let twice = [ID, alone[0], alone[0]];
    assert_eq!(denied(&send(&mut exit, "plain", &twice).1), Code::UntrustedPeer);
}
