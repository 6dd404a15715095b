//! Whether, and when, a failed job is started again.

use std::time::Duration;

/// The longest time between a failure and the next start.
const LONGEST: Duration = Duration::from_secs(60);
/// Restarts in a row that reach no new checkpoint before it is given up.
const FRUITLESS: u32 = 2;

/// The restarts of a run.
#[derive(Debug, Clone)]
pub struct Restarts {
    allowed: u32,
    done: u32,
    first: Duration,
    wait: Duration,
    /// The newest checkpoint when the job was last started.
    reached: Option<u64>,
    fruitless: u32,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another start, after this time.
    Again(Duration),
    /// No more starts are allowed.
    Enough,
    /// The last restarts came no further than those before.
    NoProgress,
}

impl Restarts {
    /// `allowed` restarts, the first after `first`, each further one after twice the time, up to a
    /// minute, until a new checkpoint is reached; `newest` is the newest checkpoint before the
    /// first start.
    pub fn new(allowed: u32, first: Duration, newest: Option<u64>) -> Self {
        Self { allowed, done: 0, first, wait: first, reached: newest, fruitless: 0 }
    }

    /// What follows a failure after which `newest` is the newest checkpoint.
    pub fn after(&mut self, newest: Option<u64>) -> Verdict {
        if newest > self.reached {
            (self.fruitless, self.wait) = (0, self.first);
        } else if self.done > 0 {
            self.fruitless += 1;
        }
        self.reached = newest;
        if self.done == self.allowed {
            return Verdict::Enough;
        }
        if self.fruitless == FRUITLESS {
            return Verdict::NoProgress;
        }
        self.done += 1;
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        Verdict::Again(wait)
    }

    /// Restarts so far.
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Restarts that are allowed.
    pub fn allowed(&self) -> u32 {
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Again(wait) => wait.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_wait_is_twice_the_last_until_there_is_progress() {
        let mut restarts = Restarts::new(20, Duration::from_secs(1), None);
        assert_eq!(seconds(restarts.after(None)), 1, "the first start was no restart");
        assert_eq!(seconds(restarts.after(None)), 2);
        assert_eq!(seconds(restarts.after(Some(10))), 1, "progress");
        assert_eq!(seconds(restarts.after(Some(10))), 2);
        assert_eq!(restarts.after(Some(10)), Verdict::NoProgress);
        let mut slow = Restarts::new(20, Duration::from_secs(50), None);
        assert_eq!([seconds(slow.after(None)), seconds(slow.after(None))], [50, 60]);
    }

    #[test]
    fn no_more_than_allowed() {
        assert_eq!(Restarts::new(0, LONGEST, None).after(Some(1)), Verdict::Enough);
        let mut restarts = Restarts::new(2, Duration::ZERO, Some(5));
        assert_eq!((seconds(restarts.after(Some(6))), seconds(restarts.after(Some(7)))), (0, 0));
        assert_eq!((restarts.after(Some(8)), restarts.done()), (Verdict::Enough, 2));
    }
}
