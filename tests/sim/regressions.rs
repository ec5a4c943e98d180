//! Seeds that once broke a rule, and what each showed. They run first.

/// The seed, and what it showed.
pub const SEEDS: [(u64, &str); 0] = [];
