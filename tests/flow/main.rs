//! Whole requests through the core, on virtual time: no Envoy, no clock, no sleeping.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod account;
mod answers;
mod authz;
mod bounds;
mod clock;
mod context;
mod door;
mod exit;
mod keys;
mod metrics;
mod operations;
mod providers;
mod redis;
mod revocation;
mod rfc8725;
mod rules;
mod shared_users;
mod sharing;
mod support;
mod tokens;
mod txn_token;
mod users;
