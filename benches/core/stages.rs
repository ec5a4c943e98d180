//! What a request goes through, stage by stage.

use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::Bencher;
use ed25519_compact::{KeyPair, Seed};
use meshgate::callout::Answer;
use meshgate::context::UserContext;
use meshgate::headers::Stripped;
use meshgate::jwks::{KeySet, Origin};
use meshgate::rules::Target;
use meshgate::signature::Crypto;
use meshgate::token::cache::{Remembered, TokenCache};
use meshgate::token::compact::CompactJws;
use meshgate::token::extract::{self, Removals};
use meshgate::token::{UnverifiedToken, VerifiedToken};
use meshgate::user::{self, UserKey, UserRecord};
use serde_json::{Value, json};

use crate::heads::{bearing, with};
use crate::setting::{NOW, TOKEN, config, fields, key_set, now, stripped};
use crate::tokens::{Es256, Rs256, claims, record};

#[divan::bench]
fn strip(bencher: Bencher<'_, '_>) {
    let config = config();
    let head = bearing(&TOKEN);
    bencher
        .with_inputs(|| fields(&head))
        .bench_local_values(|head| Stripped::strip(head, &config.context.managed));
}

#[divan::bench]
fn strip_forged(bencher: Bencher<'_, '_>) {
    let config = config();
    let head = with(bearing(&TOKEN), &[("x-user-id", "u-0"), ("x_user_role", "ADMIN")]);
    bencher
        .with_inputs(|| fields(&head))
        .bench_local_values(|head| Stripped::strip(head, &config.context.managed));
}

#[divan::bench(args = ["/api/channels/ch-2001/videos?page=2", "/api//x/../%76ideos;v=1/%2e%2e/a%2Fb"])]
fn rules(bencher: Bencher<'_, '_>, path: &str) {
    let config = config();
    let target = || Target { method: b"GET", host: b"www.example.com", path: path.as_bytes() };
    bencher.bench_local(|| config.rules.demand(&[black_box(target())], false));
}

#[divan::bench]
fn token_extraction(bencher: Bencher<'_, '_>) {
    let config = config();
    let head = stripped(&bearing(&TOKEN), &config);
    bencher.bench_local(|| extract::find(black_box(&head), config.providers.iter()).is_ok());
}

#[divan::bench]
fn token_removals(bencher: Bencher<'_, '_>) {
    let config = config();
    let head = stripped(&bearing(&TOKEN), &config);
    let places = config.providers.iter().map(|provider| &provider.places);
    bencher.bench_local(|| Removals::of(black_box(&head), &places));
}

#[divan::bench]
fn token_cache_hit(bencher: Bencher<'_, '_>) {
    let mut cache = TokenCache::new(2_048);
    for user in 0..1_000 {
        let text = Es256::new().token(&claims(&format!("user_{user}"), NOW - 60));
        let remembered = Remembered::Signed { token: verified(), generation: 1 };
        cache.remember(text.as_bytes().into(), remembered);
    }
    let remembered = Remembered::Signed { token: verified(), generation: 1 };
    cache.remember(TOKEN.as_bytes().into(), remembered);
    bencher.bench_local(|| cache.get(black_box(TOKEN.as_bytes()), now()).is_some());
}

#[divan::bench]
fn compact_jws(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| CompactJws::parse(black_box(TOKEN.as_bytes())).is_ok());
}

/// By the module's own crypto, as where the host has none.
#[divan::bench(args = ["RS256", "ES256", "EdDSA"])]
fn verify(bencher: Bencher<'_, '_>, algorithm: &str) {
    let claims = claims("user_2abc", NOW - 60);
    let (text, jwk) = match algorithm {
        "RS256" => (TOKEN.clone(), Rs256::jwk()),
        "ES256" => (Es256::new().token(&claims), Es256::new().jwk()),
        _ => ed25519(&claims),
    };
    let jws = CompactJws::parse(text.as_bytes()).unwrap();
    let keys = key_set(&[jwk]);
    let key = keys.keys().next().unwrap().public_key();
    let verify = || Crypto::Module.verify(key, jws.algorithm, jws.signing_input(), &jws.signature);
    assert!(verify());
    bencher.bench_local(|| black_box(verify()));
}

#[divan::bench]
fn jwks_of_10_keys(bencher: Bencher<'_, '_>) {
    let keys: Vec<Value> = (0..10)
        .map(|number| {
            let mut jwk = if number % 2 == 0 { Rs256::jwk() } else { Es256::new().jwk() };
            jwk["kid"] = json!(format!("k{number}"));
            jwk
        })
        .collect();
    let document = json!({ "keys": keys }).to_string();
    bencher.bench_local(|| KeySet::parse(black_box(document.as_bytes()), Origin::Remote).is_ok());
}

#[divan::bench]
fn user_record(bencher: Bencher<'_, '_>) {
    let config = config();
    let lookup = config.user.lookup().unwrap();
    let token = verified();
    let key = UserKey::of(lookup, token.provider(), token.claims()).unwrap();
    let body = record("user_2abc").to_string().into_bytes();
    let answer = Answer::Response { status: 200, max_age: None, etag: None, body };
    assert!(user::read_answer(lookup, &key, &answer).is_ok());
    bencher.bench_local(|| user::read_answer(lookup, &key, black_box(&answer)).is_ok());
}

#[divan::bench]
fn context(bencher: Bencher<'_, '_>) {
    let config = config();
    let token = verified();
    let Value::Object(members) = record("user_2abc") else { panic!("not an object") };
    let record = UserRecord::new(members);
    bencher.bench_local(|| {
        UserContext::assemble(&config.context, token.claims(), black_box(&record)).is_ok()
    });
}

fn verified() -> VerifiedToken {
    let config = config();
    let providers = &config.providers;
    let token = UnverifiedToken::parse(TOKEN.as_bytes(), 8_192, providers).unwrap();
    token.verify(&providers[0], &key_set(&[Rs256::jwk()]), &Crypto::Module, now()).unwrap()
}

fn ed25519(claims: &Value) -> (String, Value) {
    let key = KeyPair::from_seed(Seed::new([7; 32]));
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!("{}.{}", part(json!({"alg": "EdDSA", "kid": "k1"})), part(claims.clone()));
    let signature = URL_SAFE_NO_PAD.encode(*key.sk.sign(&text, None));
    let x = URL_SAFE_NO_PAD.encode(*key.pk);
    (format!("{text}.{signature}"), json!({"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x}))
}
