//! What heartbeats say, and a connection over which they do, without ever waiting.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::secret::{Code, Nonce};
use crate::activity::Activity;

/// A message: its kind in a byte, the length of the rest in two, the rest.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// Rank 0's first word to whoever comes.
    Challenge(Nonce),
    /// A rank that wants to be watched answers it, and challenges rank 0.
    Hello(u32, Code, Nonce),
    /// Rank 0's answer.
    Welcome(Code),
    /// A sign of life.
    Beat(Activity),
    /// The rank has done its work.
    Goodbye,
    /// Rank 0's verdict that the job has failed, in words.
    Verdict(String),
}

/// No verdict is longer than a person reads, nor is any other frame.
const LONGEST_TEXT: usize = 4096;
/// Bytes of a frame before the rest.
const HEADER: usize = 3;
/// Bytes of a [`Frame::Hello`]: no more is read of a connection before it is authenticated.
pub(super) const GREETING: usize = HEADER + 4 + 32 + 16;
/// Bytes that are read of a connection at a time, however much has come.
const AT_A_TIME: usize = 1 << 16;

/// Bytes that are no frame.
#[derive(Debug)]
pub(super) struct Malformed;

impl Frame {
    /// The frame as bytes.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let (kind, rest) = match self {
            Frame::Hello(rank, code, nonce) => {
                (1, [&rank.to_le_bytes(), code.as_slice(), nonce].concat())
            }
            Frame::Welcome(code) => (2, code.to_vec()),
            Frame::Beat(Activity { step, entered, left, operation }) => {
                let numbers = [*step, *entered, *left].map(u64::to_le_bytes).concat();
                (3, [numbers.as_slice(), operation.as_bytes()].concat())
            }
            Frame::Goodbye => (4, Vec::new()),
            Frame::Verdict(words) => {
                (5, words.as_bytes()[..words.floor_char_boundary(LONGEST_TEXT)].to_vec())
            }
            Frame::Challenge(nonce) => (6, nonce.to_vec()),
        };
        [&[kind], (rest.len() as u16).to_le_bytes().as_slice(), &rest].concat()
    }

    /// The first frame of `bytes`, once all of it is there, and its length.
    pub(super) fn first(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Malformed> {
        let [kind, low, high, rest @ ..] = bytes else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        if length > LONGEST_TEXT {
            return Err(Malformed);
        }
        let Some(rest) = rest.get(..length) else { return Ok(None) };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let frame = match (*kind, rest) {
            (1, rest) => {
                let (rank, rest) = rest.split_first_chunk().ok_or(Malformed)?;
                let (code, nonce) = rest.split_first_chunk().ok_or(Malformed)?;
                let nonce = nonce.try_into().map_err(|_| Malformed)?;
                Frame::Hello(u32::from_le_bytes(*rank), *code, nonce)
            }
            (2, code) => Frame::Welcome(code.try_into().map_err(|_| Malformed)?),
            (3, rest) => {
                let (numbers, operation) = rest.split_at_checked(24).ok_or(Malformed)?;
                let [step, entered, left] =
                    [0, 1, 2].map(|index| u64::from_le_bytes(numbers.as_chunks().0[index]));
                Frame::Beat(Activity { step, entered, left, operation: text(operation).into() })
            }
            (4, []) => Frame::Goodbye,
            (5, rest) => Frame::Verdict(text(rest)),
            (6, nonce) => Frame::Challenge(nonce.try_into().map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        };
        Ok(Some((frame, HEADER + length)))
    }
}

/// A connection to another rank.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// False once nothing can come any more.
    pub(super) is_open: bool,
    /// Whether the other end has closed it, rather than the network.
    pub(super) is_closed: bool,
}

/// What one look at a connection has found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Received {
    /// Whether anything came, be it half a frame.
    pub(super) any: bool,
    pub(super) frames: Vec<Frame>,
}

impl Connection {
    /// Takes over a connection.
    pub(super) fn new(stream: TcpStream) -> std::io::Result<Connection> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            is_open: true,
            is_closed: false,
        })
    }

    /// Sends a frame as soon as the network takes it. A beat that would wait behind another is left
    /// out.
    pub(super) fn send(&mut self, frame: &Frame) {
        if self.outgoing.is_empty() || !matches!(frame, Frame::Beat(_)) {
            self.outgoing.extend(frame.encoded());
        }
        self.flush();
    }

    /// Sends what the network has not taken so far. True if nothing is left.
    pub(super) fn flush(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(written) if written > 0 => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A failure to write shows in reading, too.
                _ => return false,
            }
        }
        true
    }

    /// Says that nothing more will be sent.
    pub(super) fn hang_up(&mut self) {
        // Where that fails the connection is gone, which says the same.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn close(&mut self) {
        (self.is_open, self.is_closed) = (false, true);
    }

    /// Takes what has come.
    pub(super) fn receive(&mut self) -> Received {
        self.receive_up_to(AT_A_TIME)
    }

    /// Takes what has come, at most this many bytes; the rest waits for the next look.
    pub(super) fn receive_up_to(&mut self, mut limit: usize) -> Received {
        let mut received = Received::default();
        let mut buffer = [0; 1024];
        while self.is_open && limit > 0 {
            let room = limit.min(buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.close(),
                Ok(read) => {
                    received.any = true;
                    limit -= read;
                    self.incoming.extend_from_slice(&buffer[..read]);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => break,
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => self.close(),
                    // The network has given up, which says nothing of the process: it is silent.
                    _ => self.is_open = false,
                },
            }
        }
        let mut taken = 0;
        loop {
            match Frame::first(&self.incoming[taken..]) {
                Ok(Some((frame, length))) => {
                    received.frames.push(frame);
                    taken += length;
                }
                Ok(None) => break,
                Err(Malformed) => {
                    self.close();
                    taken = self.incoming.len();
                    break;
                }
            }
        }
        self.incoming.drain(..taken);
        received
    }

    /// Bytes that have come and are no whole frame yet.
    pub(super) fn unread(&self) -> usize {
        self.incoming.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    fn frames() -> Vec<Frame> {
        let activity =
            Activity { step: 12, entered: 345, left: 344, operation: "all_reduce".into() };
        vec![
            Frame::Challenge(*b"0123456789abcdef"),
            Frame::Hello(7, [8; 32], [9; 16]),
            Frame::Welcome([10; 32]),
            Frame::Beat(activity),
            Frame::Verdict("rank 1 ist weg: ä".into()),
            Frame::Goodbye,
        ]
    }

    #[test]
    fn frames_survive_any_cut() {
        let bytes: Vec<u8> = frames().iter().flat_map(Frame::encoded).collect();
        for piece in 1..bytes.len() {
            let (mut arrived, mut taken) = (Vec::new(), Vec::new());
            for part in bytes.chunks(piece) {
                arrived.extend_from_slice(part);
                while let Some((frame, length)) = Frame::first(&arrived).unwrap() {
                    taken.push(frame);
                    arrived.drain(..length);
                }
            }
            assert_eq!(taken, frames());
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n and much more than seventy kilobytes"[..],
            &[2, 1, 0, 9],
            &[3, 2, 0, 1, 1],
            &[1, 1, 0, 0],
        ] {
            assert!(Frame::first(&[bytes, &[0; 70_000]].concat()).is_err());
        }
    }

    #[test]
    fn a_greeting_has_the_length_that_is_read_before_authentication() {
        assert_eq!(Frame::Hello(7, [8; 32], [9; 16]).encoded().len(), GREETING);
    }

    #[test]
    fn a_line_carries_frames_and_tells_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here =
            Connection::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let mut there = Connection::new(listener.accept().unwrap().0).unwrap();
        frames().iter().for_each(|frame| here.send(frame));
        drop(here);
        let (mut all, end) = (Vec::new(), Instant::now() + Duration::from_secs(600));
        loop {
            all.extend(there.receive().frames);
            if there.is_closed || Instant::now() > end {
                break;
            }
        }
        assert_eq!(all, frames());
        assert!(there.is_closed && !there.is_open);
    }
}
