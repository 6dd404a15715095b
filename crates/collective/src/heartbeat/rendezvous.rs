//! How the ranks find rank 0: it listens, the group carries its addresses to all, and each rank
//! tries all of them at once, since a host may have addresses that others cannot reach, or that are
//! another machine's there.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::frame::{Connection, Frame, Token};
use super::interfaces;

/// The longest time in which a rank must have reached rank 0.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Where rank 0 is to be found, and by which word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) token: Token,
    pub(super) addresses: Vec<SocketAddr>,
}

/// Begins to listen on every interface.
pub(super) fn listen() -> io::Result<(TcpListener, Endpoint)> {
    // IPv6 takes IPv4 too, where there is IPv6.
    let listener = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"))?;
    listener.set_nonblocking(true)?;
    let own = listener.local_addr()?;
    let reachable =
        interfaces::addresses()?.into_iter().filter(|address| address.is_ipv4() || own.is_ipv6());
    let addresses = reachable.map(|address| SocketAddr::new(address, own.port())).collect();
    let mut token = Token::default();
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok((listener, Endpoint { token, addresses }))
}

impl Endpoint {
    /// To be carried by the group.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let addresses =
            self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        [self.token.as_slice(), addresses.as_bytes()].concat()
    }

    /// What was carried; `None` where rank 0 could not listen.
    pub(super) fn decoded(bytes: &[u8]) -> Option<Endpoint> {
        let (token, addresses) = bytes.split_first_chunk()?;
        let addresses = std::str::from_utf8(addresses).ok()?.split_whitespace();
        Some(Endpoint {
            token: *token,
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
            let (sender, hello) = (sender.clone(), Frame::Hello(self.token, rank as u32).encoded());
            // Who is late finds nobody who listens, and hangs up.
            std::thread::spawn(move || sender.send((address, connect_to(address, &hello, limit))));
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

/// Connects, and waits to be welcome.
fn connect_to(address: SocketAddr, hello: &[u8], limit: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(hello)?;
    let welcome = Frame::Welcome.encoded();
    let mut answer = vec![0; welcome.len()];
    stream.read_exact(&mut answer)?;
    if answer == welcome { Ok(stream) } else { Err(io::Error::other("somebody else answers")) }
}

/// A connection that has come to rank 0, and the rank it is from once it has said so. A rank knocks
/// at every address and keeps one connection: the one over which its first beat comes.
#[derive(Debug)]
pub(super) struct PendingConnection {
    pub(super) connection: Connection,
    pub(super) rank: Option<usize>,
    since: Instant,
}

impl PendingConnection {
    pub(super) fn new(connection: Connection) -> PendingConnection {
        PendingConnection { connection, rank: None, since: Instant::now() }
    }

    /// Listens to the visitor: the rank and its first frames once it has come to stay, `Err` if it
    /// is to be forgotten.
    pub(super) fn hear(
        &mut self,
        token: &Token,
        world_size: usize,
    ) -> Result<Option<(usize, Vec<Frame>)>, ()> {
        let received = self.connection.receive();
        let mut frames = received.frames.into_iter().peekable();
        if self.rank.is_none()
            && let Some(Frame::Hello(told, rank)) = frames.peek()
        {
            let rank = *rank as usize;
            if told != token || rank >= world_size {
                return Err(());
            }
            frames.next();
            self.rank = Some(rank);
            self.connection.send(&Frame::Welcome);
        }
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
    fn host(listener: TcpListener, token: Token) -> (usize, usize) {
        let (mut pending, mut sent_away, end) = (Vec::new(), 0, Instant::now() + LONG);
        while Instant::now() < end {
            if let Ok((stream, _)) = listener.accept() {
                pending.push(PendingConnection::new(Connection::new(stream).unwrap()));
            }
            let mut stayed = None;
            pending.retain_mut(|candidate| match candidate.hear(&token, 4) {
                Ok(come) => {
                    stayed = come.or(stayed.take());
                    true
                }
                Err(()) => {
                    sent_away += 1;
                    false
                }
            });
            if let Some((rank, frames)) = stayed {
                assert_eq!(frames, [Frame::Beat(Activity::default())]);
                return (rank, sent_away);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nobody came");
    }

    #[test]
    fn a_rank_finds_the_way_and_a_stranger_does_not() {
        let (listener, mut endpoint) = listen().unwrap();
        let port = listener.local_addr().unwrap().port();
        let token = endpoint.token;
        // One address where nobody listens, and one where somebody else does.
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let stranger_address = stranger.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        endpoint.addresses.extend([
            closed,
            stranger_address,
            SocketAddr::from(([127, 0, 0, 1], port)),
        ]);
        let host = std::thread::spawn(move || host(listener, token));

        let mut wrong = TcpStream::connect(("127.0.0.1", port)).unwrap();
        wrong.write_all(&Frame::Hello([9; 16], 1).encoded()).unwrap();
        assert_eq!(wrong.read(&mut [0]).unwrap(), 0, "a stranger is sent away without a word");

        let mut connection =
            Endpoint::decoded(&endpoint.encoded()).unwrap().connect(3, LONG).unwrap();
        connection.send(&Frame::Beat(Activity::default()));
        let (rank, sent_away) = host.join().unwrap();
        assert_eq!(rank, 3);
        assert!(sent_away >= 1);
    }

    #[test]
    fn an_address_that_nobody_answers_is_named() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let endpoint = Endpoint { token: Token::default(), addresses: vec![address] };
        let fault = endpoint.connect(1, Duration::from_millis(50)).unwrap_err();
        assert!(fault.contains(&address.to_string()), "{fault}");
    }
}
