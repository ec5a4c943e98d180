//! What a request costs, counted and not timed: the same on every machine, however busy. The built module runs in an
//! interpreter that counts its instructions and host calls; the core's allocations are counted natively.
//!
//! `cargo test --test budget -- --nocapture` prints it all. What may be spent stands in `budgets`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod allocations;
mod budgets;
mod heads;
mod host;
mod memory;
mod module;
mod requests;
mod scenes;
mod tokens;
