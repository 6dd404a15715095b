//! How the ranks find rank 0: it listens, the group carries its addresses to all, and each rank
//! tries all of them at once, since a host may have addresses that others cannot reach, or that are
//! another machine's there.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::frame::{Connection, Frame, GREETING};
use super::interfaces;
use super::secret::{Nonce, Purpose, Secret, random};

/// The longest time in which a rank must have reached rank 0.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The time in which a connection must authenticate. A rank that is slower connects again.
const FOR_GREETING: Duration = Duration::from_secs(1);

/// Where rank 0 is to be found, and by which secret.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) secret: Secret,
    pub(super) addresses: Vec<SocketAddr>,
}

/// Begins to listen: for ranks on this host only, or on every interface.
pub(super) fn listen(on_one_host: bool) -> io::Result<(TcpListener, Endpoint)> {
    let listener = match on_one_host {
        true => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        // IPv6 takes IPv4 too, where there is IPv6.
        false => TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"))?,
    };
    listener.set_nonblocking(true)?;
    let own = listener.local_addr()?;
    let addresses = match on_one_host {
        true => vec![own],
        false => interfaces::addresses()?
            .into_iter()
            .filter(|address| address.is_ipv4() || own.is_ipv6())
            .map(|address| SocketAddr::new(address, own.port()))
            .collect(),
    };
    Ok((listener, Endpoint { secret: Secret::new()?, addresses }))
}

impl Endpoint {
    /// To be carried by the group.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let addresses =
            self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        [self.secret.bytes(), addresses.as_bytes()].concat()
    }

    /// What was carried; `None` where rank 0 could not listen.
    pub(super) fn decoded(bytes: &[u8]) -> Option<Endpoint> {
        let (secret, addresses) = bytes.split_first_chunk()?;
        let addresses = std::str::from_utf8(addresses).ok()?.split_whitespace();
        Some(Endpoint {
            secret: Secret::from_bytes(*secret),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        })
    }

    /// Connects to rank 0 under whichever of its addresses answers first.
    ///
    /// # Errors
    /// What became of each address, in words.
    pub(super) fn connect(&self, rank: usize, limit: Duration) -> Result<Connection, String> {
        let (sender, answers) = mpsc::channel();
        for &address in &self.addresses {
            let (sender, secret) = (sender.clone(), self.secret);
            // Who is late finds nobody who listens, and hangs up.
            let connect = move || connect_to(address, &secret, rank as u32, limit);
            std::thread::spawn(move || sender.send((address, connect())));
        }
        drop(sender);
        let end = Instant::now() + limit;
        let mut faults = Vec::new();
        while let Ok((address, answer)) =
            answers.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            match answer.and_then(Connection::new) {
                Ok(connection) => return Ok(connection),
                Err(cause) => faults.push(format!("{address}: {cause}")),
            }
        }
        if faults.is_empty() {
            let addresses =
                self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            faults.push(format!("no answer from {addresses}"));
        }
        Err(faults.join("; "))
    }
}

/// Connects and authenticates. Where rank 0 closes the connection, as it does when it has too many
/// of them, it tries again.
fn connect_to(
    address: SocketAddr,
    secret: &Secret,
    rank: u32,
    limit: Duration,
) -> io::Result<TcpStream> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match greet(address, secret, rank, left) {
            Err(cause) if is_closed_by_peer(&cause) && end > Instant::now() + AGAIN_AFTER => {
                std::thread::sleep(AGAIN_AFTER);
            }
            done => return done,
        }
    }
}

/// The time between two attempts to be welcome.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

fn greet(
    address: SocketAddr,
    secret: &Secret,
    rank: u32,
    limit: Duration,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let Frame::Challenge(nonce) = read_frame(&mut stream, &Frame::Challenge([0; 16]))? else {
        return Err(not_rank_0());
    };
    let own: Nonce = random()?;
    let hello = Frame::Hello(rank, secret.code(Purpose::Hello(rank), &nonce), own);
    stream.write_all(&hello.encoded())?;
    match read_frame(&mut stream, &Frame::Welcome([0; 32]))? {
        Frame::Welcome(code) if secret.proves(&code, Purpose::Welcome, &own) => Ok(stream),
        _ => Err(not_rank_0()),
    }
}

/// Reads a frame of the length of `like`.
fn read_frame(stream: &mut TcpStream, like: &Frame) -> io::Result<Frame> {
    let mut bytes = vec![0; like.encoded().len()];
    stream.read_exact(&mut bytes)?;
    match Frame::first(&bytes) {
        Ok(Some((frame, _))) => Ok(frame),
        _ => Err(not_rank_0()),
    }
}

fn is_closed_by_peer(cause: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn not_rank_0() -> io::Error {
    io::Error::other("the peer is not rank 0 of this job")
}

/// A connection that has come to rank 0, and the rank it is from once it has said so. A rank knocks
/// at every address and keeps one connection: the one over which its first beat comes.
#[derive(Debug)]
pub(super) struct PendingConnection {
    pub(super) connection: Connection,
    pub(super) rank: Option<usize>,
    nonce: Nonce,
    since: Instant,
}

impl PendingConnection {
    /// Challenges whoever has come.
    pub(super) fn new(mut connection: Connection) -> io::Result<PendingConnection> {
        let nonce = random()?;
        connection.send(&Frame::Challenge(nonce));
        Ok(PendingConnection { connection, rank: None, nonce, since: Instant::now() })
    }

    /// Reads what has come: the rank and its first frames once it has begun to beat, `Err` if the
    /// connection is to be closed. Before it is authenticated, a greeting is read and no more.
    pub(super) fn hear(
        &mut self,
        secret: &Secret,
        world_size: usize,
    ) -> Result<Option<(usize, Vec<Frame>)>, ()> {
        if self.rank.is_none() {
            let left = GREETING.saturating_sub(self.connection.unread());
            match self.connection.receive_up_to(left).frames.as_slice() {
                [] if !self.connection.is_open || self.since.elapsed() > FOR_GREETING => {
                    return Err(());
                }
                [] => return Ok(None),
                [Frame::Hello(rank, code, nonce)] => {
                    let is_rank = (*rank as usize) < world_size
                        && secret.proves(code, Purpose::Hello(*rank), &self.nonce);
                    if !is_rank {
                        return Err(());
                    }
                    self.rank = Some(*rank as usize);
                    let code = secret.code(Purpose::Welcome, nonce);
                    self.connection.send(&Frame::Welcome(code));
                }
                _ => return Err(()),
            }
        }
        let mut frames = self.connection.receive().frames.into_iter().peekable();
        match (self.rank, frames.peek()) {
            (Some(rank), Some(Frame::Beat(_))) => Ok(Some((rank, frames.collect()))),
            (_, Some(_)) => Err(()),
            (_, None) if !self.connection.is_open || self.since.elapsed() > LIMIT => Err(()),
            (_, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::activity::Activity;

    const LONG: Duration = Duration::from_secs(600);

    /// Hears whoever comes until somebody stays.
    fn host(listener: TcpListener, secret: Secret) -> (usize, usize) {
        let (mut pending, mut dropped, end) = (Vec::new(), 0, Instant::now() + LONG);
        while Instant::now() < end {
            if let Ok((stream, _)) = listener.accept() {
                pending.push(PendingConnection::new(Connection::new(stream).unwrap()).unwrap());
            }
            let mut stayed = None;
            pending.retain_mut(|candidate| match candidate.hear(&secret, 4) {
                Ok(come) => {
                    stayed = come.or(stayed.take());
                    true
                }
                Err(()) => {
                    dropped += 1;
                    false
                }
            });
            if let Some((rank, frames)) = stayed {
                assert_eq!(frames, [Frame::Beat(Activity::default())]);
                return (rank, dropped);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nobody came");
    }

    #[test]
    fn a_rank_connects_and_an_unauthenticated_peer_does_not() {
        let (listener, mut endpoint) = listen(false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let secret = endpoint.secret;
        // One address where nobody listens, and one where somebody else does.
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let other_address = other.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        endpoint.addresses.extend([
            closed,
            other_address,
            SocketAddr::from(([127, 0, 0, 1], port)),
        ]);
        let host = std::thread::spawn(move || host(listener, secret));

        let mut wrong = TcpStream::connect(("127.0.0.1", port)).unwrap();
        wrong.write_all(&Frame::Hello(1, [9; 32], [9; 16]).encoded()).unwrap();
        let mut answer = Vec::new();
        let _ = wrong.read_to_end(&mut answer);
        let challenge = Frame::Challenge([0; 16]).encoded().len();
        assert_eq!(answer.len(), challenge, "it gets a challenge, and nothing else");

        let mut connection =
            Endpoint::decoded(&endpoint.encoded()).unwrap().connect(3, LONG).unwrap();
        connection.send(&Frame::Beat(Activity::default()));
        let (rank, dropped) = host.join().unwrap();
        assert_eq!(rank, 3);
        assert!(dropped >= 1);
    }

    #[test]
    fn little_is_read_of_an_unauthenticated_connection_and_not_for_long() {
        let secret = Secret::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let connection = Connection::new(listener.accept().unwrap().0).unwrap();
        let mut candidate = PendingConnection::new(connection).unwrap();
        // The longest frame that there may be, of which the end does not come.
        peer.write_all(&[5, 0, 16]).unwrap();
        peer.write_all(&[b'x'; 4000]).unwrap();
        let started = Instant::now();
        while candidate.hear(&secret, 4).is_ok() {
            assert!(candidate.connection.unread() <= GREETING);
            assert!(started.elapsed() < LONG, "it may stay for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(started.elapsed() >= FOR_GREETING, "a slow rank has this time");
        assert!(started.elapsed() < LIMIT, "before it is authenticated, it has no more");
    }

    #[test]
    fn an_address_that_nobody_answers_is_named() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let endpoint = Endpoint { secret: Secret::new().unwrap(), addresses: vec![address] };
        let fault = endpoint.connect(1, Duration::from_millis(50)).unwrap_err();
        assert!(fault.contains(&address.to_string()), "{fault}");
    }
}
