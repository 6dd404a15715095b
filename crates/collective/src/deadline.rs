//! Deadlines for what no heartbeat watches: the time until MPI is up on all ranks, and the time in
//! which they end.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{daemon, env, failure};

/// How often the time is looked at. More at once than that means that this process was stopped, or
/// its machine suspended, and the others are not to blame.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// A rank that can name the culprit speaks first.
const FOR_OTHERS: Duration = Duration::from_secs(2);

/// Ends the job, unless it is dropped in time.
#[derive(Debug)]
pub struct Deadline {
    limit: Duration,
    /// Closed to call it off; `None` where there is no limit.
    done: Option<Sender<()>>,
}

impl Deadline {
    /// Ends the job after `limit`, with a line that names the rank of this host that is stopped, or
    /// else says that this one waited for `phase`. Zero: there is no limit.
    ///
    /// Where the process was not started by MPI, nothing is waited for.
    pub fn start(limit: Duration, phase: &'static str) -> Deadline {
        if limit.is_zero() || env::launched_by_mpi().is_none() {
            return Deadline { limit, done: None };
        }
        let (done, waits) = channel();
        let watch = move || {
            if has_passed(limit, &waits) {
                end(limit, phase, &waits);
            }
        };
        // Where no thread can be made, there is no deadline.
        let thread = std::thread::Builder::new().name("deadline".into()).spawn(watch);
        Deadline { limit, done: thread.is_ok().then_some(done) }
    }

    /// Lets it hold until the process has ended, for this process too: where it is stopped while it
    /// ends, no other rank may be left to name it.
    pub fn until_the_end(mut self) {
        if self.done.is_some() {
            daemon::end_this_process_after(self.limit);
        }
        // Not closed, which would call it off.
        self.done.take().map_or((), std::mem::forget)
    }
}

/// Whether the time, of which only that counts in which this process was awake, has passed before
/// the other end is closed.
fn has_passed(limit: Duration, done: &std::sync::mpsc::Receiver<()>) -> bool {
    let (mut awake, mut last) = (Duration::ZERO, Instant::now());
    while awake < limit {
        match done.recv_timeout(POLL_INTERVAL.min(limit - awake)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return false,
        }
        awake += last.elapsed().min(2 * POLL_INTERVAL);
        last = Instant::now();
    }
    true
}

fn end(limit: Duration, phase: &str, done: &std::sync::mpsc::Receiver<()>) {
    let seconds = limit.as_secs();
    let stopped = daemon::stopped_siblings();
    let words = match stopped.first() {
        Some(sibling) => {
            let host = failure::host_name();
            format!(
                ": rank {} (host {host}) is stopped (process {}); the other ranks waited {seconds} s for {phase}",
                sibling.rank, sibling.process
            )
        }
        None if !has_passed(FOR_OTHERS, done) => return,
        None => format!(
            ": waited {seconds} s for {phase}, and another rank did not respond; see the messages of mpirun, and check that all hosts are up"
        ),
    };
    failure::say(&words);
    daemon::end_soon();
    failure::end_job(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_unless_it_is_called_off() {
        let (done, waits) = channel();
        assert!(has_passed(Duration::from_millis(300), &waits));
        drop(done);
        assert!(!has_passed(Duration::from_secs(600), &waits));
    }
}
