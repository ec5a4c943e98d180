//! Seeds that once broke a rule, and what each showed. They run first.

/// The seed, and what it showed.
pub const SEEDS: [(u64, &str); 15] = [
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
    (
        20291,
        "an entry of the feed had ended, the clock was set back, and a VM that had just started knew nothing of it",
    ),
    (
        24916,
        "after the clock was set back and the board was written over, what others posted was no news",
    ),
    (24932, "the same, in another world"),
    (25831, "a worker that was asleep posted its failure over keys that it had not looked at"),
    (
        18719,
        "a failure that was not posted was taken for heard, and keys that were posted in its millisecond for old",
    ),
    (
        15138,
        "who waited for another worker took a record that this one had found in Redis, long past its life",
    ),
    (
        16612,
        "who had followed a worker that died, and had no call left, was told that the service is down",
    ),
    (
        44964,
        "who had followed a worker was told of the load, though a call of its own had just ended",
    ),
    (45640, "the same, in another world"),
    (70137, "the same, in another world"),
    (73355, "the same, in another world"),
];
