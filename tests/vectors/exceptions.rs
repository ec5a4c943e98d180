//! Where meshgate's verdict is not the corpus's, and why that is right.
//!
//! An exception that is not needed, or no longer, fails the test.

use crate::corpus::Vector;

/// Vectors on which meshgate differs for one reason.
pub struct Exception {
    pub check: Check,
    /// Whether meshgate accepts them; the corpus says the opposite.
    pub accepted: bool,
    pub ids: &'static [&'static str],
    pub reason: &'static str,
}

/// Which of a vector's two verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// `expect`, at the vector's layer.
    Layer,
    /// `expect_filter`.
    Filter,
}

pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        check: Check::Layer,
        accepted: true,
        ids: &[
            "jwt_verify_lib/jwt_test/TestParsePayloadIatNotPositive",
            "jwt_verify_lib/jwt_test/TestParsePayloadIatTooBig",
            "jwt_verify_lib/jwt_test/TestParsePayloadNbfNotPositive",
            "jwt_verify_lib/jwt_test/TestParsePayloadNbfTooBig",
            "jwt_verify_lib/jwt_test/TestParsePayloadExpNotPositive",
            "jwt_verify_lib/jwt_test/TestParsePayloadExpTooBig",
        ],
        reason: "a date before 1970 or after the last calendar is a number too, which is all that \
                 RFC 7519 section 2 asks of a NumericDate: it can be read, and is held against the clock",
    },
    Exception {
        check: Check::Filter,
        accepted: false,
        ids: &["pyjwt/auth0-real"],
        reason: "`now` is a minute before `exp`, which in this token of ten seconds is 50 s before \
                 `iat`: what is issued in the future, by more than the clock skew, is refused",
    },
];

/// The exception for this verdict on `vector`, if there is one.
pub fn find(check: Check, vector: &Vector) -> Option<&'static Exception> {
    EXCEPTIONS
        .iter()
        .find(|exception| exception.check == check && exception.ids.contains(&vector.id.as_str()))
}
