//! The signature algorithms, by their names in JOSE (RFC 7518 section 3.1).
//!
//! `none` does not exist here, so no token and no config can ask for it.

use std::fmt;
use std::str::FromStr;

use crate::config::names::BadName;

/// A signature algorithm that a key may be used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// Every algorithm there is.
    pub const ALL: [Self; 2] = [Self::Rs256, Self::Es256];

    /// Its `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }

    /// The algorithm called `name`, which is compared byte for byte (RFC 7515 section 4.1.1).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::named(text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|algorithm| algorithm.name()).collect();
            BadName(format!(
                "`{text}` is not an algorithm of this version, there are `{}`",
                all.join("`, `")
            ))
        })
    }
}
