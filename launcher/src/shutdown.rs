//! Ending a job that has failed or was interrupted.

use crate::{mpirun::Job, run_monitor::POLL_INTERVAL};
use std::time::Duration;

/// After the first sign of failure, the time in which mpirun should end the job by itself; then it
/// gets SIGTERM.
const TERM_AFTER: Duration = Duration::from_secs(5);
/// After SIGTERM, the time in which it should end; then it gets SIGKILL, and all ranks on this host
/// with it.
const KILL_AFTER: Duration = Duration::from_secs(8);
/// After SIGKILL, the time after which it is not waited for any more.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// Ends a job in stages: it may end by itself, then it gets SIGTERM, then SIGKILL, then it is not
/// waited for any more.
///
/// Its clock counts only the time for which this program was awake: a machine that is busy, or was
/// suspended, gives mpirun no time to name the rank that failed.
#[derive(Debug, Default)]
pub struct Shutdown {
    /// The time for which this program was awake so far.
    now: Duration,
    /// When the next stage is due, and which it is.
    next: Option<(Duration, Stage)>,
    /// The signal that ended the run, if one did.
    pub signal: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Terminate,
    Kill,
    GiveUp,
}

impl Shutdown {
    /// Counts the time between two polls of the job.
    pub fn pass(&mut self, elapsed: Duration) {
        self.now += elapsed.min(2 * POLL_INTERVAL);
    }

    /// The job shows the first sign of failure.
    pub fn failing(&mut self) {
        self.next.get_or_insert((self.now + TERM_AFTER, Stage::Terminate));
    }

    /// A signal asks this program to end; a second one ends the job at once.
    pub fn interrupted(&mut self, signal: usize) {
        let stage = if self.signal.is_some() { Stage::Kill } else { Stage::Terminate };
        self.signal.get_or_insert(signal);
        if !matches!(self.next, Some((_, Stage::GiveUp))) {
            self.next = Some((self.now, stage));
        }
    }

    /// Does what is due. False once the job is not waited for any more.
    pub fn advance(&mut self, job: &mut Job) -> bool {
        let now = self.now;
        let Some((_, stage)) = self.next.filter(|(due, _)| now >= *due) else { return true };
        match stage {
            Stage::Terminate => {
                job.terminate();
                self.next = Some((now + KILL_AFTER, Stage::Kill));
            }
            Stage::Kill => {
                job.kill();
                self.next = Some((now + GIVE_UP_AFTER, Stage::GiveUp));
            }
            Stage::GiveUp => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_suspended_machine_does_not_use_up_the_time_to_end() {
        let mut shutdown = Shutdown::default();
        shutdown.failing();
        shutdown.pass(Duration::from_secs(3600));
        assert!(shutdown.now < TERM_AFTER / 10);
        (0..50).for_each(|_| shutdown.pass(POLL_INTERVAL));
        assert!(shutdown.next.unwrap().0 <= shutdown.now, "polls that are on time count in full");
    }

    #[test]
    fn a_second_signal_kills_at_once() {
        let mut shutdown = Shutdown::default();
        shutdown.failing();
        let due = shutdown.next.unwrap().0;
        shutdown.failing();
        assert_eq!(
            shutdown.next,
            Some((due, Stage::Terminate)),
            "a second sign of failure does not extend the time"
        );
        shutdown.interrupted(2);
        assert_eq!(shutdown.next.unwrap().1, Stage::Terminate);
        assert!(shutdown.next.unwrap().0 <= shutdown.now);
        shutdown.interrupted(15);
        assert_eq!((shutdown.next.unwrap().1, shutdown.signal), (Stage::Kill, Some(2)));
    }
}
