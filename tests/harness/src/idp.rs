//! The issuer: signs tokens, good and bad, and serves its keys at `/.well-known/jwks.json`.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::elliptic_curve::Generate;
use rsa::RsaPrivateKey;
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

use crate::lock;
use crate::secrets;
use crate::server::{Answer, Server};

/// Where the keys are served.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// The `iss` of [`seed_claims`], which the shipped configs accept.
pub const ISSUER: &str = "youtube-clone-auth";

/// The `aud` of [`seed_claims`], which the shipped configs accept.
pub const AUDIENCE: &str = "youtube-clone-api";

/// The `iss` of [`service_claims`].
pub const SERVICE_ISSUER: &str = "mesh-auth";

/// The `aud` of [`service_claims`].
pub const SERVICE_AUDIENCE: &str = "mesh";

/// Seconds since 1970, for claims.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// The claims of a good token: from now on, for an hour.
pub fn seed_claims(clerk_id: &str) -> Value {
    let now = now();
    json!({
        "sub": clerk_id, "clerkId": clerk_id, "iat": now, "exp": now + 3600, "iss": ISSUER, "aud": AUDIENCE,
    })
}

/// The claims of a service's good token: from now on, for five minutes.
pub fn service_claims(service: &str, permissions: &[&str]) -> Value {
    let now = now();
    json!({
        "sub": service, "type": "service", "permissions": permissions, "iat": now, "exp": now + 300,
        "iss": SERVICE_ISSUER, "aud": SERVICE_AUDIENCE,
    })
}

/// A private key under a key id.
#[derive(Clone)]
pub struct Key {
    kid: String,
    private: Private,
}

#[derive(Clone)]
enum Private {
    Rs256(Arc<RsaPrivateKey>),
    Es256(p256::ecdsa::SigningKey),
}

impl Key {
    /// An RS256 key of 2048 bits. All of a process share one, since making one takes long.
    pub fn rs256(kid: &str) -> Key {
        static SHARED: LazyLock<Key> = LazyLock::new(|| Key::generate_rs256("", 2048));
        Key { kid: kid.into(), ..SHARED.clone() }
    }

    /// An RS256 key of its own, of any size.
    pub fn generate_rs256(kid: &str, bits: usize) -> Key {
        let private = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).expect("an RSA key");
        Key { kid: kid.into(), private: Private::Rs256(Arc::new(private)) }
    }

    /// A new ES256 key.
    pub fn es256(kid: &str) -> Key {
        Key { kid: kid.into(), private: Private::Es256(p256::ecdsa::SigningKey::generate()) }
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The `alg` that this key signs with.
    pub fn algorithm(&self) -> &'static str {
        match self.private {
            Private::Rs256(_) => "RS256",
            Private::Es256(_) => "ES256",
        }
    }

    /// The public key as a JWK, with `kid`, `alg` and `use`.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.private {
            Private::Rs256(key) => {
                json!({"kty": "RSA", "n": base64url(key.n().to_bytes_be()), "e": base64url(key.e().to_bytes_be())})
            }
            Private::Es256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                let [x, y] =
                    [point.x(), point.y()].map(|part| base64url(part.expect("a finite point")));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm());
        jwk["use"] = json!("sig");
        jwk
    }

    /// The private key as a JWK, for filters that sign with it. ES256 alone.
    #[track_caller]
    pub fn private_jwk(&self) -> Value {
        let Private::Es256(key) = &self.private else { panic!("{self:?} is no ES256 key") };
        let mut jwk = self.jwk();
        let private = base64url(key.to_bytes());
        secrets::keep(&private);
        jwk["d"] = json!(private);
        jwk
    }

    /// The signature of `message`, as JWS encodes it.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.private {
            Private::Rs256(key) => {
                use rsa::signature::{SignatureEncoding, Signer};
                let key = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha256>::new(key.as_ref().clone());
                key.sign(message).to_vec()
            }
            Private::Es256(key) => {
                use p256::ecdsa::signature::Signer;
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }

    /// A compact JWS of exactly these bytes.
    pub fn sign_raw(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(payload));
        let signature = base64url(self.sign(signed.as_bytes()));
        let token = format!("{signed}.{signature}");
        secrets::keep_token(&token);
        token
    }

    /// A compact JWS of this header and these claims, whatever they say.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_raw(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// A token with the header that belongs to this key.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": self.kid, "typ": "JWT"}), claims)
    }
}

/// Never shows the private part.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {})", self.algorithm(), self.kid)
    }
}

/// A running issuer. It starts with the RS256 key `rs-1`, which signs, and the ES256 key `es-1`.
#[derive(Debug)]
pub struct Idp {
    server: Server,
    keys: Arc<Mutex<Keys>>,
}

#[derive(Debug)]
struct Keys {
    published: Vec<Key>,
    signer: Key,
    rotations: usize,
    raw: Option<Vec<u8>>,
}

impl Idp {
    /// Starts on a free port.
    pub fn start() -> Idp {
        let signer = Key::rs256("rs-1");
        let published = vec![signer.clone(), Key::es256("es-1")];
        let keys = Arc::new(Mutex::new(Keys { published, signer, rotations: 0, raw: None }));
        let served = keys.clone();
        let server = Server::start(move |seen| {
            if seen.path != JWKS_PATH {
                return Answer::problem(404, "no such resource");
            }
            let keys = lock(&served);
            let document = keys.raw.clone().unwrap_or_else(|| keys.jwks().to_string().into_bytes());
            Answer::new(200, "application/json", document)
        });
        Idp { server, keys }
    }

    /// The key that signs.
    pub fn signer(&self) -> Key {
        lock(&self.keys).signer.clone()
    }

    /// The published key with this id.
    #[track_caller]
    pub fn key(&self, kid: &str) -> Key {
        let keys = lock(&self.keys);
        let found = keys.published.iter().find(|key| key.kid == kid);
        found.unwrap_or_else(|| panic!("no key `{kid}` among {:?}", keys.published)).clone()
    }

    /// The published keys.
    pub fn jwks(&self) -> Value {
        lock(&self.keys).jwks()
    }

    /// A new ES256 key, `es-2` and so on, signs from now on; the one that signed is no longer published.
    pub fn rotate(&self) -> Key {
        let mut keys = lock(&self.keys);
        keys.rotations += 1;
        let new = Key::es256(&format!("es-{}", keys.rotations + 1));
        let old = std::mem::replace(&mut keys.signer, new.clone());
        keys.published.retain(|key| key.kid != old.kid);
        keys.published.push(new.clone());
        new
    }

    /// Publishes one more key. Sign with it through [`Key::token`].
    pub fn add_key(&self, key: Key) {
        lock(&self.keys).published.push(key);
    }

    /// Publishes a key no longer. If it signs, it goes on signing.
    pub fn remove_key(&self, kid: &str) {
        lock(&self.keys).published.retain(|key| key.kid != kid);
    }

    /// Serves these bytes in place of the keys; `None` serves the keys again.
    pub fn set_jwks_raw(&self, document: Option<Vec<u8>>) {
        lock(&self.keys).raw = document;
    }

    /// A token of these claims by the key that signs.
    pub fn token(&self, claims: Value) -> String {
        self.signer().token(&claims)
    }
}

impl Deref for Idp {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Keys {
    fn jwks(&self) -> Value {
        json!({"keys": self.published.iter().map(Key::jwk).collect::<Vec<_>>()})
    }
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
