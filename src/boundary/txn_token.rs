//! Signed context: a transaction token (draft-ietf-oauth-transaction-tokens) that a gateway makes of a user's
//! context, and what one that was verified says at a service's door.
//!
//! The draft wants one `txn` for each call chain. Signing for each request would cost more than all
//! else, so a token is used for all requests of one user within a moment, and its `txn` is the id of
//! the first of them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::AssertedContext;
use crate::bounded::BoundedMap;
use crate::config::Context;
use crate::config::names::is_header_value;
use crate::context::UserContext;
use crate::denial::Reply;
use crate::headers::{Field, are_alike};
use crate::request::Permit;
use crate::signature::signing::SigningKey;
use crate::time::UnixTime;
use crate::token::compact::CompactJws;
use crate::token::{TokenError, VerifiedToken};

/// The header that carries a transaction token, and nothing else does.
pub const TXN_TOKEN: &str = "txn-token";

/// The `typ` that makes a JWT a transaction token.
pub const TYPE: &str = "txntoken+jwt";

/// The text of a transaction token that was signed or verified here. [`Recent::token`] and
/// [`TxnToken::verified`] are its only origins.
#[derive(Clone, PartialEq, Eq)]
pub struct TxnToken(Rc<[u8]>);

/// Without the text.
impl fmt::Debug for TxnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxnToken({} bytes)", self.0.len())
    }
}

impl TxnToken {
    /// The text that was found to be this token.
    #[must_use]
    pub fn verified(_proof: &VerifiedToken, text: &[u8]) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How a gateway signs.
#[derive(Debug)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Their `aud`: the trust domain.
    pub audience: String,
    /// How long a token lives.
    pub ttl: Duration,
    /// How long one is used for further requests of its user. Zero: each request has its own.
    pub reuse: Duration,
    /// The name of the key.
    pub kid: String,
    /// The key.
    pub key: SigningKey,
}

impl Issuer {
    fn sign(
        &self,
        subject: Option<&str>,
        context: &UserContext,
        request_id: &str,
        now: UnixTime,
    ) -> TxnToken {
        let header = json!({"typ": TYPE, "alg": self.key.algorithm().name(), "kid": self.kid});
        let set = context.headers().filter_map(|(name, value)| Some((name.as_str(), value?)));
        let tctx: Map<String, Value> =
            set.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        let issued = now.as_millis() / 1_000;
        let claims = [
            ("iss", Some(Value::from(self.issuer.as_str()))),
            ("aud", Some(Value::from(self.audience.as_str()))),
            ("iat", Some(Value::from(issued))),
            ("exp", Some(Value::from(issued.saturating_add(self.ttl.as_secs())))),
            ("sub", subject.map(Value::from)),
            ("txn", Some(Value::from(request_id))),
            ("tctx", Some(Value::Object(tctx))),
        ];
        let claims: Map<String, Value> = claims
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        let claims = Value::Object(claims);
        let mut text = URL_SAFE_NO_PAD.encode(header.to_string());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut text);
        let signature = self.key.sign(text.as_bytes());
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        TxnToken(text.into_bytes().into())
    }
}

/// What was signed a moment ago.
pub struct Recent(BoundedMap<SameToken, Signed>);

/// Without the tokens.
impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recent({} tokens)", self.0.len())
    }
}

struct Signed {
    context: UserContext,
    token: TxnToken,
    until: UnixTime,
}

impl Recent {
    /// Nothing yet, and never more than `max_entries`.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(BoundedMap::new(max_entries))
    }

    /// The transaction token for `user`'s context: the one that was signed for it a moment ago, or a new
    /// one, which has the id of this request.
    pub fn token(
        &mut self,
        _permit: &Permit,
        issuer: &Issuer,
        user: &VerifiedToken,
        context: &UserContext,
        request_id: &str,
        now: UnixTime,
    ) -> TxnToken {
        let key = SameToken(user.clone());
        if let Some(signed) = self.0.get(&key)
            && now < signed.until
            && signed.context == *context
        {
            return signed.token.clone();
        }
        let token = issuer.sign(user.claims().text("sub"), context, request_id, now);
        if !issuer.reuse.is_zero() {
            let until = now.after(issuer.reuse);
            self.0.insert(key, Signed { context: context.clone(), token: token.clone(), until });
        }
        token
    }
}

/// A token as it was verified once, and is remembered: compared by where it is held, which costs no look
/// at what it says. One that was verified anew is another.
struct SameToken(VerifiedToken);

impl PartialEq for SameToken {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.claims(), other.0.claims())
    }
}

impl Eq for SameToken {}

impl Hash for SameToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.0.claims(), state);
    }
}

/// The public keys, and where they are served.
#[derive(Debug)]
pub struct Published {
    /// The path.
    pub path: String,
    /// The JWKS.
    pub document: String,
}

/// How long the keys may be held by who asks for them. Long enough that nobody asks for each token,
/// and short enough that a key which is published before it signs is known by then.
const MAX_AGE: &str = "public, max-age=300";

impl Published {
    /// Whether a request's `target` is this path. What stands behind `?` is of no matter.
    #[must_use]
    pub fn is_at(&self, target: &[u8]) -> bool {
        target.split(|byte| *byte == b'?').next() == Some(self.path.as_bytes())
    }

    /// The answer to who asks for them.
    #[must_use]
    pub fn reply(&self) -> Reply {
        Reply {
            status: 200,
            grpc_status: None,
            headers: vec![
                ("content-type".into(), "application/json".to_owned()),
                ("cache-control".into(), MAX_AGE.to_owned()),
            ],
            body: self.document.clone(),
        }
    }
}

/// The transaction token among the `fields` that a hop sent, if there is one.
///
/// # Errors
/// Where it is there twice, or under another spelling: the draft has the header carry exactly one.
pub fn sent(fields: &[Field]) -> Result<Option<&[u8]>, TokenError> {
    let mut found = fields.iter().filter(|field| are_alike(&field.name, TXN_TOKEN));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(field), None) if field.name == TXN_TOKEN => Ok(Some(&field.value)),
        (Some(_), None) => Err(TokenError::Malformed("its header is not spelled `txn-token`")),
        (Some(_), Some(_)) => Err(TokenError::Ambiguous),
    }
}

/// What a transaction token says of its user: the context headers of this filter that are in its `tctx`.
/// Other members are not looked at.
///
/// # Errors
/// [`TokenError::Malformed`] where one that is required is missing, a value is no legal header's, or
/// nothing is said.
pub fn context(config: &Context, token: &VerifiedToken) -> Result<AssertedContext, TokenError> {
    let Some(Value::Object(tctx)) = token.claims().members().get("tctx") else {
        return Err(TokenError::Malformed("its `tctx` is not an object"));
    };
    let mut values = Vec::new();
    for header in &config.headers {
        let name = header.name.as_str();
        match tctx.get(name) {
            Some(Value::String(text)) if is_header_value(text) => {
                values.push((name.to_owned(), text.clone()));
            }
            Some(_) => {
                return Err(TokenError::Malformed(
                    "its `tctx` has a value that no header can carry",
                ));
            }
            None if header.required => {
                return Err(TokenError::Malformed("its `tctx` lacks a header that is required"));
            }
            None => {}
        }
    }
    if values.is_empty() {
        return Err(TokenError::Malformed("its `tctx` says nothing of a user"));
    }
    Ok(AssertedContext(values))
}

/// Whether the text of a transaction token says this of its user, all of it and no more, whoever signed it.
/// What it says beyond could be of somebody else.
#[must_use]
pub fn says(text: &[u8], max_bytes: usize, context: &[(String, String)]) -> bool {
    let token = (text.len() <= max_bytes).then(|| CompactJws::parse(text));
    let Some(Ok(CompactJws { claims, .. })) = token else {
        return false;
    };
    let Some(Value::Object(tctx)) = claims.members().get("tctx") else {
        return false;
    };
    let is_in = |(name, value): &(String, String)| {
        tctx.get(name).and_then(Value::as_str) == Some(value.as_str())
    };
    tctx.len() == context.len() && context.iter().all(is_in)
}
