//! The thread that beats, listens and judges.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::frame::{Connection, Frame};
use super::rendezvous::PendingConnection;
use super::secret::Secret;
use super::watch::Watch;
use crate::activity;

/// Time for a goodbye or a verdict to get away.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How the thread ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// This rank has left.
    Left,
    /// The job has failed: why, in words.
    Failed {
        /// Who has failed, and how.
        words: String,
        /// Whether rank 0 said so, rather than this rank.
        is_told: bool,
    },
}

/// One rank's end of the heartbeat: a star, of which rank 0 is the centre.
pub(super) struct Server {
    pub(super) watch: Watch,
    /// The connections to other ranks: on rank 0 to all that have come, on others to rank 0.
    pub(super) connections: BTreeMap<usize, Connection>,
    /// On rank 0, where the others come, until all have.
    pub(super) listener: Option<Listener>,
    /// Those that have come.
    pub(super) arrived: BTreeSet<usize>,
    /// Something to read, or the end of it, means that this rank leaves.
    pub(super) leave: UnixStream,
    pub(super) interval: Duration,
    /// Whether this rank expects the others to make progress.
    pub(super) expects_progress: Arc<AtomicBool>,
}

/// Unauthenticated connections at a time. A further one replaces the oldest.
const MAX_UNAUTHENTICATED: usize = 64;

/// Where other ranks come to.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) secret: Secret,
    pub(super) world_size: usize,
    pub(super) pending: Vec<PendingConnection>,
}

impl Server {
    /// Beats and listens until this rank leaves or the job has failed.
    pub(super) fn run(mut self) -> End {
        let (mut last_look, mut next_beat) = (Instant::now(), Instant::now());
        loop {
            let now = Instant::now();
            self.watch.pass(now - last_look);
            self.watch.expect_progress(self.expects_progress.load(Ordering::Relaxed));
            last_look = now;
            if now >= next_beat {
                next_beat = now + self.interval;
                let own = activity::own();
                self.watch.update(self.own(), own.clone());
                self.connections
                    .values_mut()
                    .for_each(|connection| connection.send(&Frame::Beat(own.clone())));
            }
            self.accept_ranks();
            if let Some(words) = self.listen() {
                return End::Failed { words, is_told: true };
            }
            if self.is_leaving() {
                self.send_to_all(&Frame::Goodbye, true);
                return End::Left;
            }
            if let Some(words) = self.watch.verdict() {
                self.send_to_all(&Frame::Verdict(words.clone()), false);
                return End::Failed { words, is_told: false };
            }
            let mut descriptors = vec![self.leave.as_raw_fd()];
            descriptors.extend(self.listener.iter().flat_map(Listener::descriptors));
            descriptors.extend(
                self.connections
                    .values()
                    .filter(|connection| connection.is_open)
                    .map(|connection| connection.stream.as_raw_fd()),
            );
            wait(&descriptors, next_beat.saturating_duration_since(Instant::now()));
        }
    }

    fn own(&self) -> usize {
        self.watch.own()
    }

    /// Whether the heartbeat's owner has hung up.
    fn is_leaving(&mut self) -> bool {
        // Nobody writes: there is nothing to read, or the end.
        self.leave.read(&mut [0]).is_ok()
    }

    /// Lets in whoever has come to stay.
    fn accept_ranks(&mut self) {
        let Some(listener) = &mut self.listener else { return };
        for (rank, connection, frames) in listener.poll() {
            // A second connection of the same rank is none of its own making.
            if let Entry::Vacant(place) = self.connections.entry(rank) {
                place.insert(connection);
                self.arrived.insert(rank);
                self.watch.heard(rank);
                self.take(rank, frames);
            }
        }
        // When all ranks have connected, the port is closed.
        self.listener.take_if(|listener| self.arrived.len() + 1 == listener.world_size);
    }

    /// Takes what has come from all. The verdict, if rank 0 has told one.
    fn listen(&mut self) -> Option<String> {
        let ranks: Vec<usize> = self.connections.keys().copied().collect();
        for rank in ranks {
            let Some(connection) = self.connections.get_mut(&rank) else { continue };
            connection.flush();
            let received = connection.receive();
            let is_closed = connection.is_closed;
            if received.any {
                self.watch.heard(rank);
            }
            if let Some(verdict) = self.take(rank, received.frames) {
                return Some(verdict);
            }
            if is_closed {
                self.watch.gone(rank);
            }
        }
        None
    }

    /// Takes a rank's frames in; a verdict ends it.
    fn take(&mut self, rank: usize, frames: Vec<Frame>) -> Option<String> {
        for frame in frames {
            match frame {
                Frame::Beat(activity) => self.watch.update(rank, activity),
                Frame::Goodbye => {
                    self.watch.left(rank);
                    // Which tells the rank that its goodbye was heard.
                    self.connections.remove(&rank);
                }
                // A rank that is not the first has lost sight of the first; the first sees more.
                Frame::Verdict(words) if self.own() != 0 => return Some(words),
                Frame::Verdict(_) | Frame::Hello(..) | Frame::Welcome(_) | Frame::Challenge(_) => {}
            }
        }
        None
    }

    /// Says a last thing to all, and waits a little until it is on its way, or until all have
    /// `heard` it and hung up.
    fn send_to_all(&mut self, frame: &Frame, heard: bool) {
        let end = Instant::now() + LAST_WORDS;
        // A rank that was welcome may not have beaten yet: without a goodbye it would miss this
        // one.
        let pending = self.listener.iter_mut().flat_map(|listener| listener.pending.drain(..));
        let welcome = pending
            .filter(|candidate| candidate.rank.is_some())
            .map(|candidate| candidate.connection);
        let mut connections: Vec<Connection> =
            std::mem::take(&mut self.connections).into_values().chain(welcome).collect();
        connections.iter_mut().for_each(|connection| connection.send(frame));
        loop {
            connections.retain_mut(|connection| {
                if connection.flush() {
                    if !heard {
                        return false;
                    }
                    connection.hang_up();
                    connection.receive();
                }
                connection.is_open
            });
            let left = end.saturating_duration_since(Instant::now());
            if connections.is_empty() || left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }
}

impl Listener {
    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        std::iter::once(self.socket.as_raw_fd())
            .chain(self.pending.iter().map(|candidate| candidate.connection.stream.as_raw_fd()))
    }

    /// Looks who is there; those that stay, with what they have said.
    fn poll(&mut self) -> Vec<(usize, Connection, Vec<Frame>)> {
        for _ in 0..MAX_UNAUTHENTICATED {
            let Ok((stream, _)) = self.socket.accept() else { break };
            // One that cannot even be set up is as if it had not come.
            self.pending.extend(Connection::new(stream).and_then(PendingConnection::new).ok());
        }
        let (mut stay, mut wait) = (Vec::new(), Vec::new());
        for mut candidate in self.pending.drain(..) {
            match candidate.hear(&self.secret, self.world_size) {
                Ok(Some((rank, frames))) => stay.push((rank, candidate.connection, frames)),
                Ok(None) => wait.push(candidate),
                Err(()) => {}
            }
        }
        self.pending = wait;
        let unauthenticated =
            self.pending.iter().filter(|candidate| candidate.rank.is_none()).count();
        let mut too_many = unauthenticated.saturating_sub(MAX_UNAUTHENTICATED);
        // The oldest come first.
        self.pending.retain(|candidate| {
            let goes = too_many > 0 && candidate.rank.is_none();
            too_many -= usize::from(goes);
            !goes
        });
        stay
    }
}

/// Waits until something can be read from one of `descriptors`, at most for `longest`.
fn wait(descriptors: &[RawFd], longest: Duration) {
    let mut waited: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
        .collect();
    // Rounded up: else the last part of a millisecond would be waited for by looking.
    let milliseconds = longest.as_micros().div_ceil(1000).try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and the number describe a list that lives through the call. However it
    // ends, the next look tells.
    unsafe { libc::poll(waited.as_mut_ptr(), waited.len() as libc::nfds_t, milliseconds) };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rendezvous::{Endpoint, listen};
    use super::*;
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::thread::JoinHandle;

    /// More than anything here takes.
    const LONG: Duration = Duration::from_secs(600);
    /// Much more than the threads of this test may be kept from running.
    const SILENCE: Duration = Duration::from_secs(3);

    /// A rank's thread, and the means to make it leave.
    struct Rank {
        owner: UnixStream,
        thread: JoinHandle<End>,
    }

    fn start(
        own: usize,
        world_size: usize,
        silence: Duration,
        connections: BTreeMap<usize, Connection>,
        listener: Option<Listener>,
    ) -> Rank {
        let (owner, leave) = UnixStream::pair().unwrap();
        leave.set_nonblocking(true).unwrap();
        let hosts = (0..world_size).map(|rank| format!("node{rank}")).collect();
        let watch = Watch::new(own, hosts, silence, None, LONG);
        let interval = Duration::from_millis(50);
        let arrived = BTreeSet::new();
        let expects_progress = Arc::new(AtomicBool::new(true));
        let server =
            Server { watch, connections, listener, arrived, leave, interval, expects_progress };
        Rank { owner, thread: std::thread::spawn(move || server.run()) }
    }

    /// Rank 0, and how to reach it.
    fn centre(world_size: usize, silence: Duration) -> (Rank, Endpoint) {
        let (listener, endpoint) = listen(true).unwrap();
        let listener =
            Listener { socket: listener, secret: endpoint.secret, world_size, pending: Vec::new() };
        (start(0, world_size, silence, BTreeMap::new(), Some(listener)), endpoint)
    }

    fn other(rank: usize, world_size: usize, endpoint: &Endpoint) -> Rank {
        start(
            rank,
            world_size,
            LONG,
            BTreeMap::from([(0, endpoint.connect(rank, LONG).unwrap())]),
            None,
        )
    }

    impl Rank {
        fn leave(self) -> End {
            drop(self.owner);
            self.thread.join().unwrap()
        }

        /// The verdict, and whether it was told by rank 0.
        fn verdict(self) -> (String, bool) {
            match self.thread.join().unwrap() {
                End::Failed { words, is_told } => (words, is_told),
                End::Left => panic!("nobody left"),
            }
        }
    }

    #[test]
    fn ranks_that_leave_one_by_one_alarm_nobody() {
        for first_to_leave in 0..3 {
            let (zero, endpoint) = centre(3, LONG);
            let mut ranks = vec![zero, other(1, 3, &endpoint), other(2, 3, &endpoint)];
            // It leaves when the others have heard it and hung up.
            assert_eq!(ranks.remove(first_to_leave).leave(), End::Left);
            assert!(ranks.into_iter().all(|rank| rank.leave() == End::Left));
        }
    }

    #[test]
    fn a_rank_that_dies_is_named_to_all() {
        let (zero, endpoint) = centre(3, LONG);
        let one = other(1, 3, &endpoint);
        let mut two = endpoint.connect(2, LONG).unwrap();
        two.send(&Frame::Beat(crate::activity::Activity {
            step: 7,
            entered: 9,
            left: 8,
            operation: "barrier".into(),
        }));
        drop(two);
        let words = "rank 2 (host node2) has ended without a word; last heard of at step 7, in barrier (collective 9)".to_owned();
        assert_eq!(zero.verdict(), (words.clone(), false));
        assert_eq!(one.verdict(), (words, true));
    }

    #[test]
    fn a_rank_that_falls_silent_is_named_to_all() {
        let (zero, endpoint) = centre(3, SILENCE);
        let one = other(1, 3, &endpoint);
        let mut two = endpoint.connect(2, LONG).unwrap();
        two.send(&Frame::Beat(activity::Activity::default()));
        let (words, is_told) = zero.verdict();
        assert!(
            words.starts_with("rank 2 (host node2) has not been heard of for ") && !is_told,
            "{words}"
        );
        assert_eq!(one.verdict(), (words, true));
    }

    #[test]
    fn a_rank_that_loses_rank_0_ends_by_itself() {
        let (listener, endpoint) = listen(true).unwrap();
        let secret = endpoint.secret;
        let host = std::thread::spawn(move || {
            let mut listener =
                Listener { socket: listener, secret, world_size: 2, pending: Vec::new() };
            loop {
                if let Some((_, connection, _)) = listener.poll().pop() {
                    return connection;
                }
            }
        });
        let one = other(1, 2, &endpoint);
        let silent = host.join().unwrap();
        // It starts with a grace in which it waits for the first sign of life.
        assert!(!one.thread.is_finished());
        drop(silent);
        assert!(one.verdict().0.starts_with("rank 0 (host node0) has ended without a word"));
    }

    /// A connection that does not authenticate.
    fn unauthenticated(endpoint: &Endpoint) -> TcpStream {
        TcpStream::connect(endpoint.addresses[0]).unwrap()
    }

    #[test]
    fn only_so_many_unauthenticated_connections_are_open() {
        let (socket, endpoint) = listen(true).unwrap();
        let secret = endpoint.secret;
        let mut listener = Listener { socket, secret, world_size: 2, pending: Vec::new() };
        let started = Instant::now();
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_UNAUTHENTICATED {
            idle.push(unauthenticated(&endpoint));
            assert!(listener.poll().is_empty());
            // Those that are too old have gone, too.
            let most = idle.len().min(MAX_UNAUTHENTICATED);
            assert!(listener.pending.len() <= most, "{} of {most}", listener.pending.len());
        }
        let is_fresh = started.elapsed() < Duration::from_millis(500);
        assert!(!is_fresh || listener.pending.len() == MAX_UNAUTHENTICATED);
    }

    #[test]
    fn unauthenticated_connections_neither_delay_the_ranks_nor_stay() {
        let (zero, endpoint) = centre(3, LONG);
        let idle: Vec<TcpStream> = (0..300).map(|_| unauthenticated(&endpoint)).collect();
        let floods = (0..4).map(|_| {
            let endpoint = endpoint.clone();
            std::thread::spawn(move || {
                // Until the port is closed.
                while let Ok(mut stream) = TcpStream::connect(endpoint.addresses[0]) {
                    let _ = stream.write_all(&[4, 0, 0].repeat(100_000));
                }
            })
        });
        let floods: Vec<JoinHandle<()>> = floods.collect();
        let (one, two) = (other(1, 3, &endpoint), other(2, 3, &endpoint));
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        assert!(TcpStream::connect(endpoint.addresses[0]).is_err(), "the port is closed");
        for mut stream in idle {
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            assert!(heard.len() <= Frame::Challenge([0; 16]).encoded().len());
        }
        let started = Instant::now();
        assert!([zero, one, two].into_iter().all(|rank| rank.leave() == End::Left));
        assert!(started.elapsed() < LONG / 10);
    }
}
