//! The ways in which people install meshgate, with the real tools: Istio's schemas and istiod, func-e.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::as_conversions,
    reason = "tests may panic"
)]

mod crds;
mod func_e;
mod istiod;
mod kubernetes;
