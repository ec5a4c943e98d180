//! The command `meshgate`, as it is built, and the JSON Schema.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod broken;
mod check;
mod explain;
#[path = "../flow/support.rs"]
#[allow(dead_code, reason = "the flow tests use all of it")]
mod flow;
mod keygen;
mod schema;
mod shipped;
mod support;
