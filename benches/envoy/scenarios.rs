//! What is sent: which requests, to which variants.

use std::net::SocketAddr;

use harness::client::Request;
use harness::idp::{Idp, Key, now, seed_claims};
use serde_json::json;

use crate::rounds::Effort;
use crate::variants::Variant;

/// How many tokens and users come again and again.
const FAMILIAR: usize = 64;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Tokens and users that came before.
    Warm,
    /// Each with a new token, of a user that came before; this is its algorithm.
    ColdToken(Algorithm),
    /// Each with a new token of a new user.
    ColdAll,
    /// Without a token.
    Missing,
    /// With a token that was good once.
    Expired,
    /// With a token whose signature is another one's.
    Forged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Rs256,
    Es256,
}

impl Scenario {
    pub const ALL: [Self; 7] = [
        Self::Warm,
        Self::ColdToken(Algorithm::Rs256),
        Self::ColdToken(Algorithm::Es256),
        Self::ColdAll,
        Self::Missing,
        Self::Expired,
        Self::Forged,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm: token and user known",
            Self::ColdToken(Algorithm::Rs256) => "new token (RS256), user known",
            Self::ColdToken(Algorithm::Es256) => "new token (ES256), user known",
            Self::ColdAll => "new token (RS256), new user",
            Self::Missing => "refused: no token",
            Self::Expired => "refused: expired token",
            Self::Forged => "refused: forged token",
        }
    }

    /// Whom it is sent to. The caches of others make no difference to it.
    pub fn variants(self) -> Vec<Variant> {
        use Variant::{
            Bare, JwtAuthn, JwtAuthnCache, JwtAuthnExtAuthz, JwtAuthnLua, Meshgate,
            MeshgateSigning, MeshgateTerse,
        };
        match self {
            Self::Warm => vec![
                Bare,
                JwtAuthn,
                JwtAuthnCache,
                JwtAuthnExtAuthz,
                JwtAuthnLua,
                Meshgate,
                MeshgateTerse,
                MeshgateSigning,
            ],
            Self::ColdToken(_) => vec![Bare, JwtAuthn, JwtAuthnExtAuthz, Meshgate],
            Self::ColdAll => vec![Bare, JwtAuthnExtAuthz, JwtAuthnLua, Meshgate],
            Self::Missing | Self::Expired | Self::Forged => vec![Bare, JwtAuthn, Meshgate],
        }
    }

    /// What a variant answers.
    pub fn status(self, variant: Variant) -> u16 {
        match self {
            Self::Warm | Self::ColdToken(_) | Self::ColdAll => 200,
            Self::Missing | Self::Expired | Self::Forged if variant == Variant::Bare => 200,
            Self::Missing | Self::Expired | Self::Forged => 401,
        }
    }

    /// How many requests a round sends to each variant.
    pub fn count(self, effort: &Effort) -> usize {
        match self {
            Self::Warm | Self::Missing | Self::Expired | Self::Forged => effort.requests,
            // Each needs a token that somebody must sign.
            Self::ColdToken(_) | Self::ColdAll => effort.requests / 2,
        }
    }

    /// The tokens of a round: the same for each variant, since each has its own memory. With `None`, no token
    /// is sent; where there are fewer than requests, they come again.
    pub fn tokens(self, idp: &Idp, round: (usize, usize), count: usize) -> Vec<Option<String>> {
        let (rs256, es256) = (idp.key("rs-1"), idp.key("es-1"));
        let user = |number: usize| format!("user_{:08x}", number % FAMILIAR);
        let tokens: Vec<String> = match self {
            Self::Missing => return vec![None],
            Self::Warm => sign(&rs256, FAMILIAR, &|number| (user(number), 0)),
            Self::ColdToken(Algorithm::Rs256) => sign(&rs256, count, &|n| (user(n), 1 + n)),
            Self::ColdToken(Algorithm::Es256) => sign(&es256, count, &|n| (user(n), 1 + n)),
            Self::ColdAll => {
                sign(&rs256, count, &|n| (format!("new_{}_{}_{n}", round.0, round.1), 1 + n))
            }
            Self::Expired => (0..FAMILIAR)
                .map(|number| {
                    let mut claims = seed_claims(&user(number));
                    claims["exp"] = json!(now() - 3600);
                    claims["iat"] = json!(now() - 7200);
                    rs256.token(&claims)
                })
                .collect(),
            Self::Forged => {
                let good = sign(&rs256, FAMILIAR, &|number| (user(number), 0));
                let other = rs256.token(&seed_claims("user_other"));
                let (_, signature) = other.rsplit_once('.').unwrap();
                let forge = |token: String| {
                    let (said, _) = token.rsplit_once('.').unwrap();
                    format!("{said}.{signature}")
                };
                good.into_iter().map(forge).collect()
            }
        };
        tokens.into_iter().map(Some).collect()
    }
}

/// Tokens of these users, told apart by a number where there is one.
fn sign(key: &Key, count: usize, whose: &dyn Fn(usize) -> (String, usize)) -> Vec<String> {
    let token = |number: usize| {
        let (user, jti) = whose(number);
        let mut claims = seed_claims(&user);
        if jti > 0 {
            claims["jti"] = json!(format!("{:016x}", jti as u64 ^ now().rotate_left(32)));
        }
        key.token(&claims)
    };
    (0..count).map(token).collect()
}

/// What a browser sends.
pub fn request(envoy: SocketAddr, token: Option<&str>) -> Request {
    let request = Request::get(envoy, "/api/comments?video=dQw4w9WgXcQ&page=2")
        .header("accept", "application/json, text/plain, */*")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("accept-language", "en-GB,en;q=0.9,de;q=0.8")
        .header("cache-control", "no-cache")
        .header("cookie", "theme=dark; consent=a1b2c3d4; session-hint=1")
        .header("origin", "https://www.example.com")
        .header("referer", "https://www.example.com/watch?v=dQw4w9WgXcQ")
        .header("sec-fetch-dest", "empty")
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "same-site")
        .header(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        );
    match token {
        Some(token) => request.bearer(token),
        None => request,
    }
}
