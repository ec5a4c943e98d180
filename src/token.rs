//! Bearer text in, [`VerifiedToken`] out.

pub mod algorithm;
pub mod cache;
pub mod claims;
pub mod compact;
pub mod extract;
pub mod introspection;

use std::fmt;
use std::rc::Rc;

use crate::boundary::txn_token;
use crate::config::{Provider, TokenKind};
use crate::jwks::{Key, KeySet};
use crate::signature::Crypto;
use crate::time::UnixTime;
use claims::Claims;
use compact::CompactJws;

/// Why a token is refused. Each is one `code` in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// It cannot be read; the text says what is wrong and quotes nothing of it.
    Malformed(&'static str),
    /// Its `alg` is none that its key may be used with.
    AlgorithmNotAllowed,
    /// The issuer has no key that it names.
    KeyUnknown,
    /// No key of its issuer made its signature.
    SignatureInvalid,
    /// Its `iss` is no provider's.
    IssuerUnknown,
    /// It is not for us.
    AudienceMismatch,
    /// It was issued to another party.
    AuthorizedPartyMismatch,
    /// A claim has not the value that its provider asks for.
    ClaimMismatch,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Its issuer says that it is not active.
    Inactive,
    /// The request has another token too.
    Ambiguous,
}

/// Which provider of the config, by its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderId(usize);

/// A token whose issuer is one of ours. It waits for keys.
#[derive(Debug)]
pub struct UnverifiedToken {
    /// The issuer's provider.
    pub provider: ProviderId,
    jws: CompactJws,
}

impl UnverifiedToken {
    /// Reads `text` and finds its provider by `iss`; no other claim is believed for that.
    ///
    /// # Errors
    /// Where it cannot be read, is too long, or is nobody's.
    pub fn parse(
        text: &[u8],
        max_bytes: usize,
        providers: &[Provider],
    ) -> Result<Self, TokenError> {
        if text.len() > max_bytes {
            return Err(TokenError::Malformed("it is longer than `limits.max_token_bytes`"));
        }
        let jws = CompactJws::parse(text)?;
        let issuer = jws.claims.text("iss").ok_or(TokenError::IssuerUnknown)?;
        // One issuer may serve users and services by two providers.
        let fits = |provider: &Provider| provider.issuer == issuer;
        let kind = if is_transaction(&jws) { TokenKind::Transaction } else { jws.claims.kind() };
        let of_its_kind = |provider: &Provider| fits(provider) && kind == provider.kind;
        let place = providers.iter().position(of_its_kind);
        let index = place.or_else(|| providers.iter().position(fits));
        let (index, provider) = index
            .and_then(|index| Some((index, providers.get(index)?)))
            .ok_or(TokenError::IssuerUnknown)?;
        // RFC 8725 section 3.1: the algorithm comes from what the provider allows, not the token.
        // Where there are no keys, the issuer itself is asked, and the token's form is its affair.
        if provider.trust.keys.is_some() && !provider.algorithms.contains(&jws.algorithm) {
            return Err(TokenError::AlgorithmNotAllowed);
        }
        Ok(Self { provider: ProviderId(index), jws })
    }

    /// Whether another set of keys could tell more of this token than `keys`: they have none of the
    /// name that it gives, and none without a name signed it.
    #[must_use]
    pub fn wants_other_keys(&self, keys: &KeySet, crypto: &Crypto) -> bool {
        !keys.names(self.jws.kid.as_deref()) && self.signer(keys, crypto).is_none()
    }

    /// The key that made the signature.
    fn signer<'a>(&'a self, keys: &'a KeySet, crypto: &Crypto) -> Option<&'a Key> {
        let jws = &self.jws;
        keys.candidates(jws.algorithm, jws.kid.as_deref()).find(|key| {
            crypto.verify(key.public_key(), jws.algorithm, jws.signing_input(), &jws.signature)
        })
    }

    /// What its signature was made with, as it says.
    #[must_use]
    pub fn algorithm(&self) -> algorithm::Algorithm {
        self.jws.algorithm
    }

    /// The token's text.
    #[must_use]
    pub fn text(&self) -> Rc<[u8]> {
        Rc::clone(&self.jws.text)
    }

    /// RFC 8725 section 3.11: a token of another kind is not taken for this one. A transaction token is
    /// none of a user or a service, whoever signed it, nor the other way about.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] where it is.
    pub fn check_type(&self, provider: &Provider) -> Result<(), TokenError> {
        match (provider.kind, is_transaction(&self.jws)) {
            (TokenKind::Transaction, false) => {
                return Err(TokenError::Malformed("its `typ` is not `txntoken+jwt`"));
            }
            (TokenKind::User | TokenKind::Service, true) => {
                return Err(TokenError::Malformed("it is a transaction token"));
            }
            (TokenKind::Transaction, true) | (TokenKind::User | TokenKind::Service, false) => {}
        }
        match &provider.token_type {
            Some(wanted) if !is_of_type(&self.jws, wanted) => {
                Err(TokenError::Malformed("its `typ` is not `token_type`"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the signature, then the claims.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        self,
        provider: &Provider,
        keys: &KeySet,
        crypto: &Crypto,
        now: UnixTime,
    ) -> Result<VerifiedToken, TokenError> {
        self.check_type(provider)?;
        if keys.candidates(self.jws.algorithm, self.jws.kid.as_deref()).next().is_none() {
            return Err(TokenError::KeyUnknown);
        }
        let Some(signer) = self.signer(keys, crypto) else {
            return Err(TokenError::SignatureInvalid);
        };
        // A token may leave its key unnamed, and a key may have no name.
        let kid = signer.kid().or(self.jws.kid.as_deref()).map(Rc::from);
        self.jws.claims.check(provider, now)?;
        Ok(VerifiedToken {
            claims: Rc::new(self.jws.claims),
            kid,
            issuer: provider.issuer.as_str().into(),
            provider: self.provider,
        })
    }
}

fn is_transaction(jws: &CompactJws) -> bool {
    is_of_type(jws, txn_token::TYPE)
}

/// RFC 7515 section 4.1.9: `application/` before a `typ` means nothing, and neither does case.
fn is_of_type(jws: &CompactJws, wanted: &str) -> bool {
    let short = |typ: &str| {
        let typ = typ.to_ascii_lowercase();
        typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
    };
    jws.typ.as_deref().is_some_and(|typ| short(typ) == short(wanted))
}

/// Proof that a token of `provider` was verified. [`UnverifiedToken::verify`], and the issuer's own
/// word in [`VerifiedToken::introspected`], are its only origins.
#[derive(Clone)]
pub struct VerifiedToken {
    claims: Rc<Claims>,
    kid: Option<Rc<str>>,
    issuer: Rc<str>,
    provider: ProviderId,
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifiedToken")
    }
}

impl VerifiedToken {
    /// A token of which its issuer said that it is active, with these claims.
    ///
    /// # Errors
    /// The first of the provider's terms that is not met.
    pub fn introspected(
        provider: ProviderId,
        config: &Provider,
        claims: Claims,
        now: UnixTime,
    ) -> Result<Self, TokenError> {
        claims.check_introspected(config, now)?;
        let issuer = config.issuer.as_str().into();
        Ok(Self { claims: Rc::new(claims), kid: None, issuer, provider })
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whose it is: its `iss`, which an introspected one need not have.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The name of the key that signed it: the key's own, else the one that the token gives.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Who issued it.
    #[must_use]
    pub fn provider(&self) -> ProviderId {
        self.provider
    }
}

impl ProviderId {
    /// Every provider of a config with `count` of them.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self)
    }

    /// What `of` holds for this provider.
    #[must_use]
    pub fn pick<T>(self, of: &[T]) -> Option<&T> {
        of.get(self.0)
    }

    /// As [`Self::pick`], to be changed.
    pub fn pick_mut<T>(self, of: &mut [T]) -> Option<&mut T> {
        of.get_mut(self.0)
    }
}
