//! Seeds that once broke a rule, and what each showed. They run first.

/// The seed, and what it showed.
pub const SEEDS: [(u64, &str); 4] = [
    (
        5353,
        "a VM that starts anew took keys off the board that were past their life, and refused by them",
    ),
    (9728, "the same, in another world"),
    (
        11792,
        "after the clock was set back, keys were posted under the time of a failure that had been heard of, and were no news",
    ),
    (
        20401,
        "a request waited for the feed, which was down and may be, and a list that came meanwhile from the board was not looked at",
    ),
];
