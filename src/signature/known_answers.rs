//! Two tokens whose verdict is known: RFC 7515 appendix A.2 (RS256) and A.3 (ES256).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Host, PublicKey};
use crate::token::algorithm::{Algorithm, Hash};

const RSA_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const EC_POINT: [&str; 2] =
    ["f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"];
const RS256: [&str; 2] = [
    "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
];
const ES256: [&str; 2] = [
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
];

/// A signature and who made it over what.
pub(super) struct KnownAnswer {
    pub algorithm: Algorithm,
    pub key: PublicKey,
    pub input: Vec<u8>,
    pub signature: Vec<u8>,
}

/// The answers: each of these is a good signature.
pub(super) fn all() -> Option<[KnownAnswer; 2]> {
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let [x, y] = EC_POINT.map(bytes);
    let answer = |algorithm, key, [input, signature]: [&str; 2]| {
        Some(KnownAnswer {
            algorithm,
            key,
            input: input.as_bytes().to_vec(),
            signature: bytes(signature)?,
        })
    };
    Some([
        answer(
            Algorithm::Rs(Hash::Sha256),
            PublicKey::rsa(&bytes(RSA_MODULUS)?, &[1, 0, 1])?,
            RS256,
        )?,
        answer(Algorithm::Es(Hash::Sha256), PublicKey::ec("P-256", &x?, &y?)?, ES256)?,
    ])
}

/// Whether `host` takes the good signatures and refuses them for another text. It must do both: one
/// that answers always the same is no judge.
pub(super) fn are_given_by(host: &dyn Host) -> bool {
    all().is_some_and(|answers| {
        answers.iter().all(|answer| {
            let verdict = |input: &[u8]| {
                answer.key.for_host(answer.algorithm, &answer.signature).is_some_and(
                    |(spki, signature)| host.verify_signature("sha256", spki, &signature, input),
                )
            };
            verdict(&answer.input) && !verdict(b"another text")
        })
    })
}
