//! Seeds that once broke a rule, and what each showed. They run first.

/// The seed, and what it showed.
pub const SEEDS: [(u64, &str); 2] = [
    (
        5353,
        "a VM that starts anew took keys off the board that were past their life, and refused by them",
    ),
    (9728, "the same, in another world"),
];
