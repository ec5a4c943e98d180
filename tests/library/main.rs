//! The core in a Rust service: the router of `examples/axum`, over a real socket, and the gate by itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

#[path = "../../examples/axum/app.rs"]
mod app;
mod gate;
mod service;
