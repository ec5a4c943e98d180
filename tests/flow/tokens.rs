//! What a token must be, as a table: each line one thing that is wrong, and its code.

use std::time::Duration;

use meshgate::denial::Code;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use crate::support::{Flow, Key, START, claims, config, denied, forwarded, record};

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn a_good_token_passes_and_its_variants_too() {
    for claims in [
        claims(),
        with("aud", json!(["other", "youtube-clone-api"])),
        with("nbf", json!(START)),
        with("exp", json!(1_767_225_600.5)),
        with("azp", json!("anyone")),
        with("iat", json!(START + 30)),
        without("iat"),
        without("clerkId"),
    ] {
        let mut flow = Flow::ready();
        let token = flow.key.token(&claims);
        forwarded(flow.whole("/x", &token, &record()));
    }
}

#[test]
fn claims_that_do_not_fit_are_refused_by_their_code() {
    for (claims, code) in [
        (with("iss", json!("someone-else")), Code::IssuerUnknown),
        (with("iss", json!(["youtube-clone-auth"])), Code::TokenMalformed),
        (with("sub", json!(1)), Code::TokenMalformed),
        (with("jti", json!({})), Code::TokenMalformed),
        (without("iss"), Code::IssuerUnknown),
        (with("aud", json!("other")), Code::AudienceMismatch),
        (with("aud", json!([])), Code::AudienceMismatch),
        (with("aud", json!("youtube-clone-api ")), Code::AudienceMismatch),
        (without("aud"), Code::AudienceMismatch),
        (with("aud", json!(1)), Code::TokenMalformed),
        (with("aud", json!(["youtube-clone-api", 1])), Code::TokenMalformed),
        (with("exp", json!(START - 30)), Code::TokenExpired),
        (with("exp", json!(-1)), Code::TokenExpired),
        (with("exp", json!(-1e300)), Code::TokenExpired),
        (with("exp", json!("1767229200")), Code::TokenMalformed),
        (with("exp", json!(null)), Code::TokenMalformed),
        (without("exp"), Code::TokenMalformed),
        (with("nbf", json!(START + 31)), Code::TokenNotYetValid),
        (with("nbf", json!(1e300)), Code::TokenNotYetValid),
        (with("iat", json!(START + 31)), Code::TokenNotYetValid),
        (with("nbf", json!({})), Code::TokenMalformed),
    ] {
        let mut flow = Flow::ready();
        let token = flow.key.token(&claims);
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), code, "{claims}");
        flow.no_call();
    }
}

#[test]
fn expiry_counts_leeway_and_is_exclusive() {
    for (late, passes) in [(29_999, true), (30_000, false)] {
        let mut flow = Flow::ready();
        let token = flow.key.token(&with("exp", json!(START)));
        flow.advance(Duration::from_millis(late));
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(disposition == Disposition::Pause, passes, "{late} ms after `exp`");
    }
}

#[test]
fn a_zero_skew_is_kept_to_the_millisecond() {
    let mut config = config();
    config["providers"]["clerk"]["clock_skew"] = json!("0s");
    for (late, passes) in [(999, true), (1_000, false)] {
        let mut flow = Flow::with(&config).with_keys();
        let token = flow.key.token(&with("exp", json!(START + 1)));
        flow.advance(Duration::from_millis(late));
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(disposition == Disposition::Pause, passes, "{late} ms");
    }
}

#[test]
fn expiration_is_required_unless_the_config_says_otherwise() {
    let mut config = config();
    config["providers"]["clerk"]["require_expiration"] = json!(false);
    let mut flow = Flow::with(&config).with_keys();
    let token = flow.key.token(&without("exp"));
    forwarded(flow.whole("/x", &token, &record()));
}

#[test]
fn an_authorized_party_must_be_one_of_ours_where_the_token_names_one() {
    let mut config = config();
    config["providers"]["clerk"]["authorized_parties"] = json!(["https://www.example.com"]);
    for (claims, code) in [
        (claims(), None),
        (with("azp", json!("https://www.example.com")), None),
        (with("azp", json!("https://evil.example")), Some(Code::AuthorizedPartyMismatch)),
        (with("azp", json!(7)), Some(Code::AuthorizedPartyMismatch)),
    ] {
        let mut flow = Flow::with(&config).with_keys();
        let token = flow.key.token(&claims);
        let disposition = flow.whole("/x", &token, &record());
        match code {
            None => drop(forwarded(disposition)),
            Some(code) => assert_eq!(denied(&disposition), code, "{claims}"),
        }
    }
}

#[test]
fn text_that_is_no_token_is_malformed() {
    let flow = Flow::ready();
    let good = flow.token();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let payload = claims().to_string();
    let signed = |header: &str, payload: &str| flow.key.sign(header.as_bytes(), payload.as_bytes());
    let duplicate = r#"{"iss":"youtube-clone-auth","iss":"youtube-clone-auth"}"#;
    for token in [
        "x".to_owned(),
        "..".to_owned(),
        head.to_owned(),
        format!("{good}."),
        format!("{good}.x"),
        format!("{good}="),
        format!("{head}.{signature}*"),
        format!(" {head} .{signature}"),
        signed("[]", &payload),
        signed("{}", &payload),
        signed(r#"{"alg":1}"#, &payload),
        signed(r#"{"alg":"ES256","kid":1}"#, &payload),
        signed(r#"{"alg":"ES256","crit":[]}"#, &payload),
        signed(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, &payload),
        signed(r#"{"alg":"ES256","alg":"ES256"}"#, &payload),
        signed(r#"{"alg":"ES256"}"#, duplicate),
        signed(r#"{"alg":"ES256"}"#, "not JSON"),
        signed(r#"{"alg":"ES256"}"#, "[]"),
        "A".repeat(8_193),
    ] {
        let mut flow = Flow::ready();
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), Code::TokenMalformed, "{token}");
    }
}

#[test]
fn the_last_character_of_a_part_has_no_spare_bits() {
    let mut flow = Flow::ready();
    let token = flow.token();
    // 64 bytes of signature leave four bits unused in the last character, so it has 15 twins.
    let last = token.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    assert_eq!(place % 16, 0);
    for twin in alphabet[place + 1..place + 16].chars() {
        let token = format!("{}{twin}", &token[..token.len() - 1]);
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), Code::TokenMalformed);
    }
}

#[test]
fn a_signature_of_anyone_else_is_refused() {
    let mut flow = Flow::ready();
    let good = flow.token();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let mut imposter = Key::new("imposter");
    imposter.kid = "k1";
    let admin = imposter.token(&with("sub", json!("admin")));
    let payload = admin.split('.').nth(1).unwrap();
    for token in [
        admin.clone(),
        format!("{header}.{payload}.{signature}"),
        format!("{head}."),
        format!("{head}.AAAA"),
        format!("{head}.{}", "A".repeat(86)),
    ] {
        let (_, disposition) = flow.get("/x", &token);
        assert_eq!(denied(&disposition), Code::SignatureInvalid, "{token}");
    }
}

#[test]
fn a_request_has_one_token_or_none() {
    let mut config = config();
    config["providers"]["clerk"]["from_headers"] =
        json!([{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-token"}]);
    let mut flow = Flow::with(&config).with_keys();
    let one = flow.token();
    let other = flow.key.token(&with("sub", json!("someone")));
    let bearer = |token: &str| format!("bearer   {token}").into_bytes();
    for (headers, code) in [
        (vec![("authorization", bearer(&one))], None),
        (vec![("authorization", bearer(&one)), ("x-token", one.clone().into_bytes())], None),
        (
            vec![("authorization", bearer(&one)), ("x-token", other.clone().into_bytes())],
            Some(Code::TokenAmbiguous),
        ),
        (
            vec![("authorization", bearer(&one)), ("authorization", bearer(&other))],
            Some(Code::TokenAmbiguous),
        ),
        // Envoy joins headers of one name by commas.
        (vec![("authorization", [bearer(&one), bearer(&one)].join(&b','))], None),
        (
            vec![("authorization", [bearer(&one), bearer(&other)].join(&b','))],
            Some(Code::TokenAmbiguous),
        ),
        (
            vec![("authorization", [b"Basic eDp5".to_vec(), bearer(&one)].join(&b','))],
            Some(Code::TokenAmbiguous),
        ),
        (vec![("authorization", format!("Bearer\t{one}").into_bytes())], None),
        (vec![("authorization", format!("Bearer{one}").into_bytes())], Some(Code::TokenMissing)),
        (vec![("authorization", b"Basic dXNlcjpwdw==".to_vec())], Some(Code::TokenMissing)),
        (vec![("authorization", b"Bearer".to_vec())], Some(Code::TokenMissing)),
        (vec![("authorization", b"Bearer \xff\xfe".to_vec())], Some(Code::TokenMalformed)),
        (vec![], Some(Code::TokenMissing)),
    ] {
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_slice())).collect();
        let (stream, _, disposition) = flow.send("/x", &headers);
        match code {
            None => assert_eq!(disposition, Disposition::Pause),
            Some(code) => assert_eq!(denied(&disposition), code, "{headers:?}"),
        }
        flow.worker.on_gone(stream);
    }
}
