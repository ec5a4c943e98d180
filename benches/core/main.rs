//! How long the core's stages take, and what they allocate, natively: `cargo bench --bench core`. `tests/budget`
//! counts what is spent and holds it down; this is for finding out where it goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "a benchmark fails by panicking"
)]
#![allow(dead_code, reason = "not all that the budgets need is timed")]

#[path = "../../tests/budget/heads.rs"]
mod heads;
mod setting;
mod stages;
#[path = "../../tests/budget/tokens.rs"]
mod tokens;
mod whole;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
