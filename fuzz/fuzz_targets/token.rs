//! A compact JWS: the filter accepts exactly what a slow reading of RFC 7515, 7519 and 8725 accepts.
//!
//! The first byte says what the rest is: `t` the text of a token, `s` a header and a payload in two lines that our key
//! signs, `x` the same signed by a stranger under our key's name, `m` the same of ours with a third line of changes to
//! the text; whatever else, the seed of drawn members.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use meshgate_fuzz::flow::{Key, START};
use meshgate_fuzz::naive;
use meshgate_fuzz::world::{WORLD, World, line};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde_json::{Map, Value};

/// A member of a drawn header or payload.
#[derive(Arbitrary)]
struct Member {
    name: u8,
    value: Drawn,
    /// Whether its name is written with an escape, which makes no other name of it.
    is_escaped: bool,
}

#[derive(Arbitrary)]
enum Drawn {
    Fitting(u8),
    Near(i8),
    Number(f64),
    Text(String),
    List(u8, u8),
    Null,
    Flag(bool),
}

const HEADER_NAMES: [&str; 8] = ["alg", "kid", "typ", "crit", "jwk", "jku", "x5c", "b64"];
const CLAIM_NAMES: [&str; 9] = ["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "type", "azp"];
const TEXTS: [&str; 14] = [
    "ES256",
    "youtube-clone-auth",
    "youtube-clone-api",
    "k1",
    "JWT",
    "service",
    "user",
    "none",
    "RS256",
    "HS256",
    "txntoken+jwt",
    "application/TXNTOKEN+jwt",
    "es256",
    "k2",
];

fn written(members: &[Member], names: &[&str]) -> String {
    let text = |place: u8| Value::from(TEXTS[usize::from(place) % TEXTS.len()]);
    let members: Vec<String> = members
        .iter()
        .map(|member| {
            let name = names[usize::from(member.name) % names.len()];
            let value = match &member.value {
                Drawn::Fitting(place) => text(*place),
                Drawn::Near(secs) => Value::from(START.saturating_add_signed((*secs).into())),
                Drawn::Number(number) => Value::from(*number),
                Drawn::Text(own) => Value::from(own.as_str()),
                Drawn::List(one, other) => Value::from(vec![text(*one), text(*other)]),
                Drawn::Null => Value::Null,
                Drawn::Flag(flag) => Value::from(*flag),
            };
            match (member.is_escaped, name.split_at(1)) {
                (true, (first, rest)) => {
                    format!("\"\\u{:04x}{rest}\":{value}", u32::from(first.as_bytes()[0]))
                }
                (false, _) => format!("\"{name}\":{value}"),
            }
        })
        .collect();
    members.join(",")
}

/// A token whose members are mostly right and then some.
fn drawn(seed: &[u8], world: &World) -> Option<Vec<u8>> {
    let mut seed = Unstructured::new(seed);
    let (right_header, right_payload): (u8, u8) = seed.arbitrary().ok()?;
    let header: Vec<Member> = seed.arbitrary().ok()?;
    let payload: Vec<Member> = seed.arbitrary().ok()?;
    // Bits of what is there beside the drawn members.
    let chosen = |bits: u8, all: &[String]| -> Vec<String> {
        all.iter()
            .enumerate()
            .filter(|(place, _)| bits >> place & 1 == 0)
            .map(|(_, one)| one.clone())
            .collect()
    };
    let base_header = ["\"alg\":\"ES256\"", "\"kid\":\"k1\""].map(str::to_owned);
    let base_payload = [
        "\"iss\":\"youtube-clone-auth\"".to_owned(),
        "\"aud\":\"youtube-clone-api\"".to_owned(),
        format!("\"exp\":{}", START + 60),
        "\"sub\":\"user_2abc\"".to_owned(),
    ];
    let whole = |base: &[String], bits: u8, members: &[Member], names: &[&str]| {
        let mut parts = chosen(bits, base);
        if !members.is_empty() {
            parts.push(written(members, names));
        }
        format!("{{{}}}", parts.join(","))
    };
    let header = whole(&base_header, right_header, &header, &HEADER_NAMES);
    let payload = whole(&base_payload, right_payload, &payload, &CLAIM_NAMES);
    Some(world.key.sign(header.as_bytes(), payload.as_bytes()).into_bytes())
}

fn signed(lines: &[u8], key: &Key) -> Vec<u8> {
    let (header, payload) = line(lines);
    key.sign(header, payload).into_bytes()
}

/// Signed, and then changed: of each two bytes the first says which sign, counted from the end of a part and mostly
/// there, where bits are that mean nothing, and the second what stands there then.
fn changed(lines: &[u8], key: &Key) -> Vec<u8> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n";
    let (header, rest) = line(lines);
    let (payload, changes) = line(rest);
    let text = key.sign(header, payload);
    let mut parts: Vec<Vec<u8>> = text.split('.').map(|part| part.as_bytes().to_vec()).collect();
    for change in changes.chunks_exact(2) {
        let part = &mut parts[usize::from(change[0] % 3)];
        let sign = SIGNS[usize::from(change[1]) % SIGNS.len()];
        let from_end = match change[0] / 3 {
            near @ ..64 => near % 4,
            far => far,
        };
        match part.len().checked_sub(1 + usize::from(from_end)) {
            Some(place) => part[place] = sign,
            None => part.push(sign),
        }
    }
    parts.join(&b'.')
}

/// Whether the token is good. `None` where that hangs on less than a millisecond.
fn is_good(token: &[u8], world: &World) -> Option<bool> {
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, payload, signature] = parts[..] else {
        return Some(false);
    };
    let decoded = [header, payload, signature].map(naive::base64url);
    let [Some(header_text), Some(payload_text), Some(signature)] = decoded else {
        return Some(false);
    };
    let (Some(head), Some(claims)) = (naive::object(&header_text), naive::object(&payload_text))
    else {
        return Some(false);
    };
    let time = is_in_time(&claims)?;
    let signed = [header, b".", payload].concat();
    let fits = token.len() <= 8192
        && is_head_good(&head)
        && are_claims_good(&claims)
        && time
        && is_ours(&signed, &signature, world);
    Some(fits)
}

fn is_ours(signed: &[u8], signature: &[u8], world: &World) -> bool {
    let jwk = world.key.jwk();
    let part = |name: &str| naive::base64url(jwk[name].as_str().unwrap_or_default().as_bytes());
    let point = [vec![4], part("x").unwrap_or_default(), part("y").unwrap_or_default()].concat();
    let key = VerifyingKey::from_sec1_bytes(&point).unwrap_or_else(|error| panic!("{error}"));
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(signed, &signature).is_ok())
}

fn is_head_good(head: &Map<String, Value>) -> bool {
    let typ = match head.get("typ") {
        None => String::new(),
        Some(Value::String(typ)) => typ.to_ascii_lowercase(),
        Some(_) => return false,
    };
    head.get("alg").is_some_and(|alg| alg == "ES256")
        && !head.contains_key("crit")
        && head.get("kid").is_none_or(|kid| kid == "k1")
        && !["txntoken+jwt", "application/txntoken+jwt"].contains(&typ.as_str())
}

fn are_claims_good(claims: &Map<String, Value>) -> bool {
    let is_text = |name: &str| claims.get(name).is_none_or(Value::is_string);
    let audiences = match claims.get("aud") {
        Some(Value::Array(items)) => items.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    claims.get("iss").is_some_and(|iss| iss == "youtube-clone-auth")
        && is_text("sub")
        && is_text("jti")
        && audiences.iter().all(Value::is_string)
        && audiences.iter().any(|audience| audience == "youtube-clone-api")
        && claims.get("type").is_none_or(|kind| kind != "service")
}

/// With the 30 seconds by which clocks may differ.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn is_in_time(claims: &Map<String, Value>) -> Option<bool> {
    let now = START as f64;
    let ahead = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(date)) => Ok(date.as_f64().map(|date| date - now)),
        Some(_) => Err(()),
    };
    let (Ok(exp), Ok(nbf), Ok(iat)) = (ahead("exp"), ahead("nbf"), ahead("iat")) else {
        return Some(false);
    };
    let is_close = |ahead: Option<f64>, to: f64| {
        ahead.is_some_and(|ahead| (ahead - to).abs() < 1e-3 && ahead.fract() != 0.0)
    };
    if is_close(exp, -30.0) || is_close(nbf, 30.0) || is_close(iat, 30.0) {
        return None;
    }
    Some(
        exp.is_some_and(|exp| exp > -30.0)
            && [nbf, iat].into_iter().flatten().all(|date| date <= 30.0),
    )
}

fuzz_target!(|data: &[u8]| {
    WORLD.with(|world| {
        let token = match data.split_first() {
            None => return,
            Some((b't', text)) => text.to_vec(),
            Some((b's', lines)) => signed(lines, &world.key),
            Some((b'm', lines)) => changed(lines, &world.key),
            Some((b'x', lines)) => signed(lines, &world.stranger),
            Some((_, seed)) => match drawn(seed, world) {
                Some(token) => token,
                None => return,
            },
        };
        let verified = world.verify(&token);
        let shown = String::from_utf8_lossy(&token);
        if let Some(good) = is_good(&token, world) {
            assert_eq!(verified.is_ok(), good, "{:?} of {shown}", verified.as_ref().err());
        }
        if let Ok(verified) = verified {
            let payload = token.split(|byte| *byte == b'.').nth(1).and_then(naive::base64url);
            let claims = payload.and_then(|payload| naive::object(&payload));
            assert_eq!(Some(verified.claims().members()), claims.as_ref(), "{shown}");
            assert_eq!(verified.kid(), Some("k1"), "{shown}");
            assert_eq!(verified.issuer(), "youtube-clone-auth", "{shown}");
        }
    });
});
