//! Times in tests. None of them decides whether a test passes: a machine with other work may be
//! late by any amount.

use std::time::Duration;

/// What tells a hang from a slow machine, for all that tests wait for. A whole run of the tiny
/// model takes a few seconds on an idle one.
pub const HANG_LIMIT: Duration = Duration::from_secs(600);

/// Time between two looks at what is waited for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Prints how long something took. That it kept what the manual promises is asserted only where
/// `LORACT_ASSERT_TIMES` is set, which asks for a machine without other work.
#[track_caller]
pub fn promised(what: &str, took: Duration, promise: Duration) {
    println!("{what}: {took:.1?}, at most {promise:.1?} on an idle machine");
    assert!(
        took < promise || std::env::var_os("LORACT_ASSERT_TIMES").is_none(),
        "{what} took {took:?}, and not {promise:?}"
    );
}
