//! Tests of parts that not every machine has, such as a real Redis: skipped in sight, or required.

/// Returns the part, or prints why the test is skipped. With `MESHGATE_REQUIRE_ALL=1`, as in CI, a missing
/// part fails the test.
#[track_caller]
pub fn require<T>(part: &str, available: Result<T, String>) -> Option<T> {
    let reason = match available {
        Ok(part) => return Some(part),
        Err(reason) => reason,
    };
    if std::env::var("MESHGATE_REQUIRE_ALL").is_ok_and(|value| value == "1") {
        panic!("MESHGATE_REQUIRE_ALL is set and {part} is missing: {reason}");
    }
    // Written directly: libtest captures `eprintln!`, and a skipped test must not look like a passed one.
    use std::io::Write;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {part}: {reason}");
    None
}
