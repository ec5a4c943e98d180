//! What a client may not say is gone from a head, and what the filter says stands there once.
//!
//! The input is a head, a field a line: `name: value`.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use meshgate::headers::{Edit, Field, Stripped};
use meshgate::worker::Disposition;
use meshgate_fuzz::flow::{self, Flow, Key};
use meshgate_fuzz::naive::{edited, is_like};
use meshgate_fuzz::world::field;
use serde_json::json;

/// Managed in every config, and one of the config's own.
const MANAGED: [&str; 7] = [
    "x-user-id",
    "x-user-clerk-id",
    "x-user-role",
    "x-user-channel-id",
    "x-service-name",
    "txn-token",
    "x-tenant",
];

struct Gateway {
    flow: Flow,
    token: String,
}

thread_local! {
    static GATEWAY: RefCell<Gateway> = RefCell::new(gateway());
}

/// One that needs no other service.
fn gateway() -> Gateway {
    let key = Key::new("k1");
    let config = json!({
        "mode": "gateway",
        "providers": {"clerk": {
            "issuer": "youtube-clone-auth", "audiences": ["youtube-clone-api"],
            "local_jwks": {"keys": [key.jwk()]},
            "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
            "from_cookies": ["__session"], "from_params": ["access_token"],
        }},
        "user": {"source": "claims"},
        "context": {"headers": {
            "x-user-id": {"claim": "/sub", "required": true},
            "x-user-role": {"claim": "/role"},
            "x-tenant": {"claim": "/tenant"},
        }},
        "rules": [{"match": {"path_prefix": "/"}, "require": "optional"}],
    });
    Gateway { flow: Flow::with(&config), token: key.token(&flow::claims()) }
}

fn head(lines: &[u8]) -> Vec<Field> {
    let fields = lines.split(|byte| *byte == b'\n').take(64).map(|line| {
        // A pseudo-header begins with the colon that ends other names.
        let colon = line.iter().skip(1).position(|byte| *byte == b':').map(|place| place + 1);
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        field(
            &String::from_utf8_lossy(name),
            value.strip_prefix(b":").unwrap_or_default().trim_ascii(),
        )
    });
    fields.filter(|field| !field.name.is_empty()).collect()
}

fn managed(head: &[Field]) -> Vec<&Field> {
    head.iter().filter(|field| MANAGED.iter().any(|name| is_like(&field.name, name))).collect()
}

fuzz_target!(|lines: &[u8]| {
    GATEWAY.with_borrow_mut(|Gateway { flow, token }| {
        let mut sent = vec![field(":method", b"GET"), field(":path", b"/x")];
        sent.extend(
            head(lines)
                .into_iter()
                .filter(|field| ![":method", ":path"].contains(&field.name.as_str())),
        );
        let names = &flow.worker.config().context.managed;

        let (strip, stripped) = Stripped::strip(sent.clone(), names);
        let left = edited(sent.clone(), &strip);
        assert_eq!(managed(&left), Vec::<&Field>::new(), "a client's field survives");
        assert!(left.iter().eq(stripped.fields()), "what is decided on is not what goes on");
        assert!(stripped.asserted().iter().eq(managed(&sent)), "more was taken out than may be");
        let honest: Vec<&Field> =
            sent.iter().filter(|field| !managed(&sent).contains(field)).collect();
        assert!(left.iter().eq(honest), "a field was taken out that is anybody's");
        assert_eq!(edited(left.clone(), &strip), left, "stripped twice, something else");
        assert!(Stripped::strip(left.clone(), names).0.is_empty());

        // The same with a good token, and so with context.
        let bearer = format!("Bearer {token}");
        let mut with_token = left.clone();
        with_token.push(field("authorization", bearer.as_bytes()));
        let (none, stripped) = Stripped::strip(with_token.clone(), names);
        assert_eq!(none, Vec::<Edit>::new());
        let Disposition::Forward(edits, _) = flow.request(&stripped) else { return };
        let after = edited(with_token, &edits);
        let said: Vec<(&str, &[u8])> = managed(&after)
            .into_iter()
            .map(|field| (field.name.as_str(), field.value.as_slice()))
            .collect();
        assert_eq!(said, [("x-user-id", &b"user_2abc"[..])]);
        let shows_token =
            |field: &&Field| field.value.windows(token.len()).any(|part| part == token.as_bytes());
        assert_eq!(after.iter().find(shows_token), None, "the token goes upstream");
        let twice = edited(after.clone(), &edits);
        let sorted = |mut head: Vec<Field>| {
            head.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
            head
        };
        assert_eq!(sorted(twice), sorted(after), "edited twice, something else");
    });
});
