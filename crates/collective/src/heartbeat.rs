//! A heartbeat between the ranks, apart from the collectives.
//!
//! A collective waits for ever for a rank that is stopped, hangs, or is cut off, and nothing in MPI
//! says which rank that is. So each rank has a thread that sends a few bytes over TCP, apart from
//! MPI's own connections: all to rank 0, and rank 0 to all. Who is not heard of for too long, or
//! closes its connection without a goodbye, is named on stderr with its host, its last step and its
//! last collective (`rank 0 (host a): rank 3 (host b) has not been heard of for 54 s; last heard of
//! at step 12, in all_reduce (collective 345); …`), and the job ends, on every rank that can be
//! told, and on the others by themselves, since they miss rank 0.
//!
//! A rank proves that it is one before anything else is read of it ([`secret`]), and when all have
//! come, rank 0 listens no more. Ranks that share one host meet on its loopback interface.
//!
//! Any byte is a sign of life, however late it comes, so that a slow network or a rank that
//! computes for an hour alarms nobody. [`watch`] judges, [`rendezvous`] finds the way to rank 0,
//! [`frame`] is what is said, [`server`] is the thread.

mod frame;
mod interfaces;
mod rendezvous;
mod secret;
mod server;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::IntoRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use self::frame::Connection;
use self::rendezvous::Endpoint;
use self::server::{End, Listener, Server};
use self::watch::Watch;
use crate::{Error, ProcessGroup, Result, daemon, failure};

/// When a heartbeat alarms, and whom it tells.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatOptions {
    /// The time within which a rank that has died, is stopped or is cut off is named. Zero: there
    /// is no heartbeat.
    pub deadline: Duration,
    /// The time for which ranks may wait in collectives while none makes progress. A rank whose
    /// process beats but whose work hangs is named after it. `None`: for ever.
    pub stall: Option<Duration>,
    /// Told the verdict on every rank before the job ends, for its log.
    pub told: fn(&str),
}

/// mpirun knows more of a rank that has died, the signal or the exit code: time for it to say so,
/// and to end the job itself.
const FOR_MPIRUN: Duration = Duration::from_secs(1);

/// This rank's part of the heartbeat, until it leaves.
///
/// Dropped without [`Heartbeat::leave`], as where an error ends the work, it continues until the
/// process ends: the others learn of that end.
#[derive(Debug)]
pub struct Heartbeat {
    /// None where there is no heartbeat.
    running: Option<(UnixStream, JoinHandle<()>)>,
    expects_progress: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Begins to beat, and to end the job when another rank does not. All ranks call it, with the
    /// same options.
    ///
    /// # Errors
    /// Every rank's, if any cannot reach rank 0 ([`Error::Heartbeat`]); and those of the group.
    pub fn start(group: &dyn ProcessGroup, options: HeartbeatOptions) -> Result<Heartbeat> {
        if group.world_size() == 1 || options.deadline.is_zero() {
            return Ok(Heartbeat { running: None, expects_progress: Arc::default() });
        }
        let (rank, world_size) = (group.rank(), group.world_size());
        let mut endpoint = Vec::new();
        let mut fault = String::new();
        let mut heartbeat = None;
        let expects_progress = Arc::new(AtomicBool::new(true));
        let spawn = |connections, listener| {
            spawn(group, options, connections, listener, Arc::clone(&expects_progress))
                .map_err(|cause| cause.to_string())
        };
        if rank == 0 {
            // It listens before anybody comes.
            let opened = rendezvous::listen(is_on_one_host(world_size))
                .map_err(|cause| format!("rank 0 cannot listen: {cause}"))
                .and_then(|(listener, opened)| {
                    endpoint = opened.encoded();
                    spawn(
                        BTreeMap::new(),
                        Some(Listener {
                            socket: listener,
                            secret: opened.secret,
                            world_size,
                            pending: Vec::new(),
                        }),
                    )
                });
            opened.map_or_else(|cause| fault = cause, |running| heartbeat = Some(running));
        }
        group.broadcast_bytes(&mut endpoint, 0)?;
        if let Some(endpoint) = Endpoint::decoded(&endpoint).filter(|_| rank != 0) {
            let reached = endpoint
                .connect(rank, rendezvous::LIMIT)
                .and_then(|connection| spawn(BTreeMap::from([(0, connection)]), None));
            reached.map_or_else(|cause| fault = cause, |running| heartbeat = Some(running));
        }
        let faults = group.all_gather_bytes(fault.as_bytes())?;
        let heartbeat = Heartbeat { running: heartbeat, expects_progress };
        match faults.iter().position(|fault| !fault.is_empty()) {
            None => Ok(heartbeat),
            Some(rank) => {
                heartbeat.leave();
                Err(Error::Heartbeat {
                    rank,
                    reason: String::from_utf8_lossy(&faults[rank]).into_owned(),
                })
            }
        }
    }

    /// Whether ranks that wait for each other without progress are a failure
    /// ([`HeartbeatOptions::stall`]), as they are at first; or whether they may wait for as long as
    /// one of them works, such as while rank 0 prepares data. The word of rank 0 counts.
    pub fn expect_progress(&self, expected: bool) {
        self.expects_progress.store(expected, Ordering::Relaxed);
    }

    /// Says goodbye to the others: from now on this rank may end, and is not told when others fail.
    pub fn leave(mut self) {
        if let Some((owner, thread)) = self.running.take() {
            drop(owner);
            // A thread that panicked has ended the job, or was meant not to.
            let _ = thread.join();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some((owner, _)) = self.running.take() {
            // Not closed, which would be a goodbye.
            let _ = owner.into_raw_fd();
        }
    }
}

/// Whether the launcher has said that all ranks are on this host. Names of hosts say less: two
/// machines may have the same one.
fn is_on_one_host(world_size: usize) -> bool {
    crate::env::local_size_hint() == Some(world_size)
}

fn spawn(
    group: &dyn ProcessGroup,
    options: HeartbeatOptions,
    connections: BTreeMap<usize, Connection>,
    listener: Option<Listener>,
    expects_progress: Arc<AtomicBool>,
) -> io::Result<(UnixStream, JoinHandle<()>)> {
    let (owner, leave) = UnixStream::pair()?;
    leave.set_nonblocking(true)?;
    let hosts = (0..group.world_size()).map(|rank| group.host(rank).to_owned()).collect();
    // A little less, so that the deadline holds with the time that it takes to notice.
    let silence = options.deadline.mul_f64(0.9);
    // Rank 0 alone hears what all are doing.
    let stall = options.stall.filter(|_| group.rank() == 0);
    let watch = Watch::new(group.rank(), hosts, silence, stall, rendezvous::LIMIT);
    let interval = (options.deadline / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
    let arrived = BTreeSet::new();
    let server =
        Server { watch, connections, listener, arrived, leave, interval, expects_progress };
    let beat = move || {
        if let End::Failed { words, is_told } = server.run() {
            fail(&words, is_told, options.told);
        }
    };
    Ok((owner, std::thread::Builder::new().name("heartbeat".into()).spawn(beat)?))
}

/// Ends the job: rank 0 at once, those that it has told a little later, should it not come to that;
/// and in time what started the ranks.
fn fail(words: &str, is_told: bool, told: fn(&str)) -> ! {
    if !is_told {
        failure::say(&format!(": {words}"));
    }
    told(words);
    daemon::end_soon();
    std::thread::sleep(if is_told { FOR_MPIRUN * 2 } else { FOR_MPIRUN });
    failure::end_job(1)
}
