//! What the targets share: second implementations to hold the filter against, and the world around it.
//!
//! A key, its tokens and a config are those of the flow tests, so that a crash is written down there as a test in a
//! few lines.

#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::panic,
    clippy::return_self_not_must_use,
    clippy::string_slice,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test's, where failing is panicking"
)]
#[path = "../../tests/flow/support.rs"]
pub mod flow;

pub mod naive;
pub mod world;
