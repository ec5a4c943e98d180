//! The built module in a real Envoy, with everything around it real too. What a test claims, it
//! asserts at the upstream or at the service that was asked, not in the filter.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod answers;
mod authz;
mod changes;
mod config;
mod context;
mod cors;
mod egress;
mod faults;
mod hostile;
mod keys;
mod lookup;
mod mesh;
mod operations;
mod outages;
mod providers;
mod redis;
mod reload;
mod revocation;
mod rules;
mod sharing;
mod soak;
mod strategies;
mod support;
mod trapping;
mod txn_token;
mod versions;
