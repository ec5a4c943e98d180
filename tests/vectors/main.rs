//! Other people's JWTs, good and bad, and what meshgate makes of each: in the core, and as the built
//! module in a real Envoy. Where meshgate's verdict is not the corpus's, `exceptions` says why.
//!
//! The corpus is not part of this repository. It is read from `../shared/vectors`, or from the
//! directory that `$MESHGATE_VECTORS` names; without it these tests are skipped in sight.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "Envoy has the real time, so the core gets it too")]

mod corpus;
mod envoy;
mod exceptions;
mod filter;
mod native;

/// Says how it went, even where all is well: a line that libtest does not capture.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
