//! What reaches the upstream: only what was verified, on every kind of route.

use meshgate::denial::Code;
use meshgate::headers::Edit;
use meshgate::worker::Disposition;
use serde_json::json;

use crate::support::{Flow, config, denied, forwarded, record, removed, set};

const FORGED: [(&str, &[u8]); 7] = [
    ("X-User-Id", b"forged"),
    ("x_user_id", b"forged"),
    ("X-USER-ID", b"forged"),
    ("x-user-role", b"ADMIN"),
    ("x-user-channel-id", b""),
    ("x-service-name", b"videos"),
    ("txn-token", b"forged"),
];

#[test]
fn a_verified_user_is_set_and_the_token_removed() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let edits = forwarded(flow.whole("/x", &token, &record()));
    let (ids, rest): (Vec<Edit>, Vec<Edit>) = edits
        .into_iter()
        .partition(|edit| matches!(edit, Edit::Set(name, _) if name == "x-request-id"));
    assert_eq!(
        rest,
        [
            set("x-user-id", "u-1001"),
            set("x-user-clerk-id", "user_2abc"),
            set("x-user-role", "USER"),
            set("x-user-channel-id", "ch-2001"),
            removed("authorization"),
        ]
    );
    let [Edit::Set(_, id)] = ids.as_slice() else { panic!("{ids:?}") };
    let id = String::from_utf8(id.clone()).unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "4", "{id}");
}

#[test]
fn what_the_user_has_not_is_removed() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let record = json!({"id": 1001, "role": "USER", "channelId": null});
    let edits = forwarded(flow.whole("/x", &token, &record));
    assert!(edits.contains(&set("x-user-id", "1001")));
    assert!(edits.contains(&removed("x-user-channel-id")));
}

#[test]
fn forged_context_is_stripped_first_on_every_kind_of_route() {
    for path in ["/healthz", "/public", "/x", "/admin", "/upload", "/raw"] {
        for with_token in [false, true] {
            let mut flow = Flow::ready();
            let bearer = format!("Bearer {}", flow.token());
            let mut headers = FORGED.to_vec();
            if with_token {
                headers.push(("authorization", bearer.as_bytes()));
            }
            let (_, strip, disposition) = flow.send(path, &headers);
            let names: Vec<Edit> =
                FORGED.iter().map(|(name, _)| removed(&name.to_ascii_lowercase())).collect();
            assert_eq!(strip, names, "{path}");
            if let Disposition::Forward(edits, _) = disposition {
                let mut set_names = edits.iter().filter_map(|edit| match edit {
                    Edit::Set(name, _) => Some(name.as_str()),
                    Edit::Remove(_) => None,
                });
                assert!(set_names.all(|name| name == "x-request-id"), "{path}: {edits:?}");
                assert_eq!(edits.contains(&removed("authorization")), with_token);
            }
        }
    }
}

#[test]
fn a_token_is_forwarded_where_that_is_said_and_it_was_verified() {
    let mut flow = Flow::ready();
    let token = flow.token();
    let edits = forwarded(flow.whole("/raw", &token, &record()));
    assert!(!edits.contains(&removed("authorization")));

    let mut config = config();
    config["context"] = json!({"forward_token": true});
    let mut flow = Flow::with(&config).with_keys();
    let edits = forwarded(flow.whole("/x", &token, &record()));
    assert!(!edits.contains(&removed("authorization")));
    // On an anonymous route nobody looked at it, so nobody else should.
    let (_, disposition) = flow.get("/healthz", &token);
    assert!(forwarded(disposition).contains(&removed("authorization")));
}

#[test]
fn an_optional_route_takes_a_good_token_or_none_but_no_bad_one() {
    let mut flow = Flow::ready();
    let (_, _, disposition) = flow.send("/public", &[]);
    assert!(forwarded(disposition).contains(&removed("x-user-id")));
    let token = flow.token();
    let edits = forwarded(flow.whole("/public", &token, &record()));
    assert!(edits.contains(&set("x-user-id", "u-1001")));
    let (_, disposition) = flow.get("/public", "bad");
    assert_eq!(denied(&disposition), Code::TokenMalformed);
}

#[test]
fn roles_and_permissions_are_the_users_own() {
    for (path, record, code) in [
        ("/admin", json!({"id": 1, "role": "ADMIN"}), None),
        ("/admin", json!({"id": 1, "role": "USER"}), Some(Code::RoleRequired)),
        ("/admin", json!({"id": 1, "role": "ADMINS"}), Some(Code::RoleRequired)),
        ("/upload", json!({"id": 1, "role": "USER", "permissions": ["video:create"]}), None),
        (
            "/upload",
            json!({"id": 1, "role": "USER", "permissions": []}),
            Some(Code::PermissionRequired),
        ),
        ("/upload", json!({"id": 1, "role": "USER"}), Some(Code::PermissionRequired)),
    ] {
        let mut flow = Flow::ready();
        let token = flow.token();
        let disposition = flow.whole(path, &token, &record);
        match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code, "{path} {record}"),
        }
    }
}

#[test]
fn a_request_id_is_kept_where_it_is_harmless() {
    let long = "x".repeat(129);
    for (sent, kept) in [
        (&b"abc-123"[..], true),
        (b"", false),
        (b"a b", false),
        (b"\xff", false),
        (b"a\r\nb", false),
        (long.as_bytes(), false),
    ] {
        let mut flow = Flow::ready();
        let (_, _, disposition) = flow.send("/x", &[("x-request-id", sent)]);
        let Disposition::Deny(denial) = disposition else { panic!("{disposition:?}") };
        assert_eq!(denial.request_id.as_bytes() == sent, kept, "{sent:?}");
        let (_, _, disposition) = flow.send("/healthz", &[("x-request-id", sent)]);
        let edits = forwarded(disposition);
        let replaced = edits.iter().any(|e| matches!(e, Edit::Set(n, _) if n == "x-request-id"));
        assert_eq!(replaced, !kept, "{sent:?}");
    }
}

#[test]
fn no_token_goes_on_that_was_not_verified_however_it_is_written() {
    let mut config = config();
    config["providers"]["clerk"]["from_headers"] =
        json!([{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-access-token"}]);
    config["context"] = json!({"forward_token": true});
    let good = Flow::new().token();
    for (name, value) in [
        ("authorization", "Bearer\tevil.evil.evil"),
        ("authorization", "bearer   evil.evil.evil"),
        ("authorization", "Basic eDp5,Bearer evil.evil.evil"),
        ("authorization", "Bearer"),
        ("x_access_token", "evil.evil.evil"),
        ("x.access.token", "evil.evil.evil"),
    ] {
        // Where nobody asks for a token, it is taken off; where one is read, it is refused.
        let mut flow = Flow::with(&config).with_keys();
        let (_, _, disposition) = flow.send("/healthz", &[(name, value.as_bytes())]);
        assert!(forwarded(disposition).contains(&removed(name)), "{name}: {value}");
        let mut flow = Flow::with(&config).with_keys();
        let headers = [(name, value.as_bytes()), ("x-access-token", good.as_bytes())];
        let (stream, _, disposition) = flow.send("/x", &headers);
        if let Disposition::Deny(denial) = disposition {
            assert_eq!(denial.code, Code::TokenAmbiguous);
            continue;
        }
        // It is only like a token's place: the good one goes on without it.
        let call = flow.call();
        let released = flow.answer(call.id, 200, record().to_string().as_bytes());
        let edits = forwarded(crate::support::only(released, stream));
        assert!(!edits.contains(&removed("x-access-token")), "{name}: {value}");
        assert!(edits.contains(&removed(name)) || value == "Bearer", "{name}: {value}");
    }
}
