//! Tokens that need no second look.
//!
//! The key is the whole token, hashed with the worker's own random seed: nobody can make another
//! token that is taken for it, or many that fall into one place.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use hashbrown::Equivalent;

use super::extract::are_same;
use super::{TokenError, VerifiedToken};
use crate::bounded::BoundedMap;
use crate::time::UnixTime;

/// What is remembered of tokens.
pub struct TokenCache(BoundedMap<Text, Remembered>);

/// A token's text.
#[derive(Eq)]
struct Text(Rc<[u8]>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        are_same(&self.0, &other.0)
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// One that is looked for.
#[derive(Hash)]
struct Wanted<'a>(&'a [u8]);

impl Equivalent<Text> for Wanted<'_> {
    fn equivalent(&self, text: &Text) -> bool {
        are_same(self.0, &text.0)
    }
}

/// What is remembered of one token.
#[derive(Debug, Clone)]
pub enum Remembered {
    /// A key of the provider's set of this generation signed it. Good as long as that set is held.
    Signed {
        /// The token.
        token: VerifiedToken,
        /// The set's generation.
        generation: u64,
    },
    /// The issuer said that it is active.
    Active {
        /// The token.
        token: VerifiedToken,
        /// How long the issuer's word is used.
        until: UnixTime,
    },
    /// The issuer said that it is not, or something of it that does not fit.
    Refused {
        /// Why it is refused.
        error: TokenError,
        /// How long the issuer's word is used.
        until: UnixTime,
    },
}

impl TokenCache {
    /// A cache for at most `max_entries` tokens.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(BoundedMap::new(max_entries))
    }

    /// What is remembered of `token`, as far as time alone can tell.
    pub fn get(&mut self, token: &[u8], now: UnixTime) -> Option<Remembered> {
        match self.0.get(&Wanted(token))? {
            Remembered::Active { until, .. } | Remembered::Refused { until, .. }
                if *until <= now =>
            {
                None
            }
            remembered => Some(remembered.clone()),
        }
    }

    /// Remembers `token`.
    pub fn remember(&mut self, token: Rc<[u8]>, what: Remembered) {
        self.0.insert(Text(token), what);
    }

    /// How many tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
