//! Every vector in the core, with the module's own crypto, at the vector's time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use harness::skip;
use meshgate::jwks::{KeySet, Origin};
use meshgate::signature::Crypto;
use meshgate::token::TokenError;
use meshgate::token::compact::CompactJws;

use crate::corpus::{Corpus, Expect, Layer, Vector};
use crate::exceptions::{self, Check, EXCEPTIONS};
use crate::{filter, say};

#[test]
fn each_vector_gets_its_verdict_at_its_layer_and_from_the_whole_filter() {
    let Some(corpus) = skip::require("the JWT vectors", Corpus::find()) else {
        return;
    };
    let mut report = Report::default();
    for vector in &corpus.vectors {
        let own = match vector.layer {
            Layer::Signature => signed(&corpus, vector),
            Layer::Parse => read(&corpus, vector).map(|_| ()),
            Layer::Claims => claimed(&corpus, vector),
        };
        report.add(Check::Layer, vector, vector.expect, &own.map_err(|why| format!("{why:?}")));
        let config = filter::config(&corpus, vector);
        let whole = match filter::answer(&config, vector, vector.now()) {
            (200, _) => Ok(()),
            (status, code) => Err(format!("{status} {code}")),
        };
        report.add(Check::Filter, vector, vector.expect_filter, &whole);
    }
    report.finish();
}

/// Whether a key of the set made the signature, whatever it is over.
///
/// The library's own reading wants claims for a payload, so it gets some: the header is read beside
/// those. That the payload is base64url is then said of it in the signature's place.
fn signed(corpus: &Corpus, vector: &Vector) -> Result<(), TokenError> {
    let document = corpus.jwks(vector).to_string();
    let keys = KeySet::parse(document.as_bytes(), Origin::Local);
    let mut parts: Vec<&str> = vector.token.split('.').collect();
    let header = parts[0];
    let payload = parts.get(1).copied().unwrap_or_default();
    if let Some(place) = parts.get_mut(1) {
        *place = "e30";
    }
    let jws = CompactJws::parse(parts.join(".").as_bytes())?;
    CompactJws::parse(format!("{header}.e30.{payload}").as_bytes())?;
    let input = format!("{header}.{payload}");

    let keys = keys.map_err(|_| TokenError::KeyUnknown)?;
    let mut candidates = keys.candidates(jws.algorithm, jws.kid.as_deref()).peekable();
    candidates.peek().ok_or(TokenError::KeyUnknown)?;
    candidates
        .map(meshgate::jwks::Key::public_key)
        .any(|key| Crypto::Module.verify(key, jws.algorithm, input.as_bytes(), &jws.signature))
        .then_some(())
        .ok_or(TokenError::SignatureInvalid)
}

/// Whether the token can be read and is its issuer's by `iss`, whoever signed it. Many of these have
/// a signature that is wrong as well, and that is not what they are to be refused for.
fn read(corpus: &Corpus, vector: &Vector) -> Result<CompactJws, TokenError> {
    let jws = CompactJws::parse(vector.token.trim_ascii().as_bytes())?;
    let config = filter::parsed(&filter::config(corpus, vector));
    let issuer = jws.claims.members().get("iss");
    // Where the source asks for no issuer, its tokens need not have one.
    let absent = issuer.is_none() && vector.issuer().is_none();
    if !absent && issuer.is_none_or(|issuer| *issuer != *config.providers[0].issuer) {
        return Err(TokenError::IssuerUnknown);
    }
    Ok(jws)
}

/// As [`read`], and whether the claims are what the config asks for.
fn claimed(corpus: &Corpus, vector: &Vector) -> Result<(), TokenError> {
    let config = filter::parsed(&filter::config(corpus, vector));
    read(corpus, vector)?.claims.check(&config.providers[0], vector.now())
}

/// What came of all checks.
#[derive(Default)]
struct Report {
    counts: BTreeMap<(Check, Layer), Counts>,
    excepted: BTreeSet<(Check, String)>,
    wrong: Vec<String>,
}

#[derive(Default)]
struct Counts {
    /// As expected, by source.
    passed: BTreeMap<String, usize>,
    either_accepted: usize,
    either_refused: usize,
    excepted: usize,
}

impl Report {
    fn add(&mut self, check: Check, vector: &Vector, expect: Expect, got: &Result<(), String>) {
        let counts = self.counts.entry((check, vector.layer)).or_default();
        match (expect, got) {
            (Expect::Either, Ok(())) => counts.either_accepted += 1,
            (Expect::Either, Err(_)) => counts.either_refused += 1,
            (Expect::Accept, Ok(())) | (Expect::Reject, Err(_)) => {
                *counts.passed.entry(vector.source.clone()).or_default() += 1;
            }
            (Expect::Accept, Err(_)) | (Expect::Reject, Ok(())) => {
                let exception = exceptions::find(check, vector);
                if exception.is_some_and(|exception| exception.accepted == got.is_ok()) {
                    counts.excepted += 1;
                    self.excepted.insert((check, vector.id.clone()));
                } else {
                    self.wrong.push(format!(
                        "{} ({}), {}: expected {expect:?}, got {got:?}: {}",
                        vector.id,
                        vector.source,
                        name(check, vector.layer),
                        vector.note
                    ));
                }
            }
        }
    }

    /// Says how it went, and fails where it did not go well.
    fn finish(mut self) {
        for ((check, layer), counts) in &self.counts {
            let passed: usize = counts.passed.values().sum();
            let mut line = format!(
                "vectors, {}: {passed} as expected, {} either way ({} accepted), {} excepted;",
                name(*check, *layer),
                counts.either_accepted + counts.either_refused,
                counts.either_accepted,
                counts.excepted,
            );
            for (source, count) in &counts.passed {
                let _ = write!(line, " {source} {count}");
            }
            say(&line);
        }
        for exception in EXCEPTIONS {
            let used = |id: &&&str| self.excepted.contains(&(exception.check, (**id).to_owned()));
            say(&format!(
                "vectors, {} excepted: {}",
                exception.ids.iter().filter(used).count(),
                exception.reason
            ));
            let unused = exception.ids.iter().filter(|id| !used(id));
            self.wrong.extend(unused.map(|id| format!("{id}: its exception is not needed")));
        }
        let Self { wrong, .. } = self;
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn name(check: Check, layer: Layer) -> String {
    let layer = format!("{layer:?}").to_ascii_lowercase();
    match check {
        Check::Layer => layer,
        Check::Filter => format!("whole filter on {layer}"),
    }
}
