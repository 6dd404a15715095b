//! What this process is doing, as its heartbeat tells the others.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A process is one rank for its whole life, so that one place is enough for all its groups and
/// threads.
static OWN: Mutex<Activity> =
    Mutex::new(Activity { step: 0, entered: 0, left: 0, operation: Cow::Borrowed("") });

/// How far a rank has come. Its text says so: `at step 12, in all_reduce (collective 345)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// The step it is in, from 1; 0 before the first.
    pub(crate) step: u64,
    /// Collectives it has begun, by all groups and threads.
    pub(crate) entered: u64,
    /// Collectives that have ended.
    pub(crate) left: u64,
    /// The collective that was begun last.
    pub(crate) operation: Cow<'static, str>,
}

impl Activity {
    /// Whether it waits for other ranks.
    pub(crate) fn is_in_collective(&self) -> bool {
        self.entered > self.left
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            0 => formatter.write_str("before the first step")?,
            step => write!(formatter, "at step {step}")?,
        }
        if self.entered == 0 {
            return formatter.write_str(", before its first collective");
        }
        let place = if self.is_in_collective() { "in" } else { "after" };
        write!(formatter, ", {place} {} (collective {})", self.operation, self.entered)
    }
}

/// Notes that this process begins step `step`, from 1. Where a rank fails, the others say how far
/// it had come.
pub fn note_step(step: u64) {
    own_mut().step = step;
}

/// What this process is doing now.
pub(crate) fn own() -> Activity {
    own_mut().clone()
}

fn own_mut() -> MutexGuard<'static, Activity> {
    // It holds numbers, and none is half written.
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A collective that runs for as long as this lives.
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
#[derive(Debug)]
pub(crate) struct Inside;

/// Notes that this process begins a collective. It costs a lock that nobody holds for longer than a
/// few instructions.
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
pub(crate) fn enter(operation: &'static str) -> Inside {
    let mut own = own_mut();
    own.entered += 1;
    own.operation = Cow::Borrowed(operation);
    Inside
}

impl Drop for Inside {
    fn drop(&mut self) {
        own_mut().left += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rank_does_is_said_in_a_few_words() {
        // No other test of this program makes a collective call.
        assert_eq!(own().to_string(), "before the first step, before its first collective");
        note_step(12);
        drop(enter("barrier"));
        assert_eq!(own().to_string(), "at step 12, after barrier (collective 1)");
        let inside = enter("all_reduce");
        assert_eq!(
            (own().to_string().as_str(), own().is_in_collective()),
            ("at step 12, in all_reduce (collective 2)", true)
        );
        drop(inside);
        assert!(!own().is_in_collective());
    }
}
