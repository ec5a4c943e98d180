//! Tokens as Clerk's look, and the keys that sign them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::{BigUint, RsaPrivateKey, pkcs1v15, sha2::Sha256};
use serde_json::{Value, json};

/// The key of RFC 7515 appendix A.2: to make one takes a while, and a new one each time were no same run twice.
const RFC7515: [&str; 4] = [
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ",
    "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc",
    "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc",
];

/// A key that signs RS256, as most issuers' do.
pub struct Rs256(pkcs1v15::SigningKey<Sha256>);

impl Rs256 {
    pub fn new() -> Self {
        let [n, d, p, q] =
            RFC7515.map(|number| BigUint::from_bytes_be(&URL_SAFE_NO_PAD.decode(number).unwrap()));
        let key = RsaPrivateKey::from_components(n, BigUint::from(65_537_u32), d, vec![p, q]);
        Self(pkcs1v15::SigningKey::new(key.unwrap()))
    }

    pub fn jwk() -> Value {
        json!({"kty": "RSA", "kid": "k1", "use": "sig", "alg": "RS256", "n": RFC7515[0], "e": "AQAB"})
    }

    pub fn token(&self, claims: &Value) -> String {
        use rsa::signature::{SignatureEncoding, Signer};
        signed("RS256", claims, |text| self.0.sign(text).to_vec())
    }
}

/// A key that signs ES256: many tokens are made sooner with it.
pub struct Es256(p256::ecdsa::SigningKey);

impl Es256 {
    pub fn new() -> Self {
        // Any scalar is a key.
        Self(p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap())
    }

    pub fn jwk(&self) -> Value {
        let point = self.0.verifying_key().to_sec1_point(false);
        let [x, y] = [1..33, 33..65].map(|part| URL_SAFE_NO_PAD.encode(&point.as_bytes()[part]));
        json!({"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": x, "y": y})
    }

    pub fn token(&self, claims: &Value) -> String {
        use p256::ecdsa::signature::Signer;
        signed("ES256", claims, |text| {
            let signature: p256::ecdsa::Signature = self.0.sign(text);
            signature.to_bytes().to_vec()
        })
    }
}

fn signed(alg: &str, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = json!({"alg": alg, "kid": "k1", "typ": "JWT"});
    let text = format!("{}.{}", part(&header), part(claims));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(sign(text.as_bytes())))
}

/// The claims of one of Clerk's session tokens.
pub fn claims(user: &str, issued: u64) -> Value {
    json!({
        "iss": "youtube-clone-auth", "aud": "youtube-clone-api", "azp": "https://www.example.com",
        "sub": user, "clerkId": user, "sid": format!("sess_{user}"), "jti": format!("{user:0>20}"),
        "iat": issued, "nbf": issued - 10, "exp": issued + 3_600, "sts": "active", "v": 2,
        "fva": [3, -1], "org": {"id": "org_2tL7mGb", "rol": "member", "slg": "example"},
    })
}

/// The record that the users service has of them.
pub fn record(user: &str) -> Value {
    json!({
        "id": format!("u-{user}"), "clerkId": user, "role": "USER", "channelId": format!("ch-{user}"),
        "permissions": ["video:create", "comment:create"], "status": "ACTIVE",
        "email": format!("{user}@example.com"), "createdAt": "2025-03-01T12:00:00Z",
    })
}
