//! The bytes of a text file, decompressed as they are read.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use files::Content;
use flate2::read::MultiGzDecoder;

use crate::error::{Error, Place, Result};
use crate::file;

/// What one record may have at most: a small file of gzip or zstd can hold an endless line.
#[cfg(not(test))]
pub(crate) const RECORD_LIMIT: u64 = 512 << 20;
/// Less, so that a test meets it in little time and memory.
#[cfg(test)]
pub(crate) const RECORD_LIMIT: u64 = 4 << 20;

/// What is read at a time, and what [`Input::head`] can show.
const BUFFER: usize = 256 << 10;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// An open text file: plain, or in gzip or zstd of any number of members, as its bytes say. It
/// knows the place of the next byte in the text, and how much of the file it has read.
pub(crate) struct Input {
    path: PathBuf,
    source: Source,
    read: Rc<Cell<u64>>,
    buffer: Box<[u8]>,
    filled: Range<usize>,
    position: u64,
    /// Lines that end in `\r` alone get another end.
    is_classic_mac: bool,
}

enum Source {
    Plain(Counted),
    Packed(&'static str, Box<dyn Read>),
}

impl Input {
    /// Opens a file of text, past its byte order mark.
    ///
    /// # Errors
    /// If it is not there, is no regular file, cannot be unpacked, or its bytes say that it is
    /// something else than text.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, content) = files::open_told(path).map_err(file::error(path))?;
        let read = Rc::new(Cell::new(0));
        let raw = Counted { file, read: Rc::clone(&read) };
        let source = match content {
            Content::Gzip => Source::Packed("gzip", Box::new(MultiGzDecoder::new(raw))),
            Content::Zstd => {
                let decoder =
                    zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER, raw));
                Source::Packed("zstd", Box::new(decoder.map_err(Error::io("read", path))?))
            }
            _ => Source::Plain(raw),
        };
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let mut input = Self {
            path: path.to_owned(),
            source,
            read,
            buffer,
            filled: 0..0,
            position: 0,
            is_classic_mac: false,
        };
        input.begin()?;
        Ok(input)
    }

    /// Refuses what is no text, and goes past a byte order mark.
    fn begin(&mut self) -> Result<()> {
        let packed = matches!(self.source, Source::Packed(..));
        let head = self.head()?;
        let (has_mark, is_classic_mac) =
            (head.starts_with(BYTE_ORDER_MARK), head.contains(&b'\r') && !head.contains(&b'\n'));
        let content = files::content(head);
        if let Some(what) = content.name() {
            let remedy = content
                .refusal()
                .map_or("name it by what it is, or unpack it", |refusal| refusal.remedy);
            let problem = if packed {
                format!("compressed, it holds what is {what}")
            } else {
                format!("it is {what}")
            };
            return Err(Error::file(&self.path, problem, remedy));
        }
        if has_mark {
            self.consume(BYTE_ORDER_MARK.len());
        }
        if is_classic_mac {
            self.is_classic_mac = true;
            end_lines(&mut self.buffer[self.filled.clone()]);
        }
        Ok(())
    }

    /// The next bytes, at most what the buffer holds; they are still to be read.
    pub(crate) fn head(&mut self) -> Result<&[u8]> {
        while self.filled.len() < self.buffer.len() && self.fill().map_err(|why| self.fault(why))? {
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    /// The next bytes, at least one unless the text ends here; they are still to be read.
    pub(crate) fn peek(&mut self) -> Result<&[u8]> {
        if self.filled.is_empty() {
            self.fill().map_err(|why| self.fault(why))?;
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    /// How many bytes of the text, mark included, come before the next one.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes of the file, which may be compressed, have been read, about.
    pub(crate) fn bytes_read(&self) -> u64 {
        match &self.source {
            Source::Plain(_) => self.position,
            Source::Packed(..) => self.read.get(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes forward to a byte of the text: at once, or, if it is compressed, by unpacking what is
    /// before.
    ///
    /// # Errors
    /// If the text is shorter, or cannot be read.
    pub(crate) fn skip_to(&mut self, byte: u64) -> Result<()> {
        if let Source::Plain(Counted { file, .. }) = &mut self.source {
            file.seek(SeekFrom::Start(byte)).map_err(Error::io("read", &self.path))?;
            (self.filled, self.position) = (0..0, byte);
        }
        while self.position < byte {
            let there = self.peek()?.len() as u64;
            if there == 0 {
                return Err(Error::file(
                    &self.path,
                    "it has become shorter",
                    "prepare the data again",
                ));
            }
            self.consume(there.min(byte - self.position) as usize);
        }
        Ok(())
    }

    /// Reads on to the end of the line, which is left out of `line`: how many bytes there were, 0
    /// at the end of the file.
    ///
    /// # Errors
    /// If the file cannot be read, or the line, which begins at `number`, is longer than a record
    /// may be.
    pub(crate) fn read_line(&mut self, line: &mut Vec<u8>, number: u64) -> Result<u64> {
        let room = RECORD_LIMIT.saturating_sub(line.len() as u64);
        let count = Read::by_ref(self)
            .take(room + 1)
            .read_until(b'\n', line)
            .map_err(|why| self.fault(why))? as u64;
        if count > room && line.last() != Some(&b'\n') {
            return Err(too_long(&self.path, number, RECORD_LIMIT));
        }
        line.pop_if(|last| *last == b'\n');
        Ok(count)
    }

    /// What a failed read says of the file.
    pub(crate) fn fault(&self, why: io::Error) -> Error {
        match self.source {
            Source::Packed(packing, _) if why.raw_os_error().is_none() => {
                let problem = format!("compressed with {packing}, it cannot be unpacked ({why})");
                Error::file(&self.path, problem, "it may be truncated or damaged: fetch it again")
            }
            _ => Error::io("read", &self.path)(why),
        }
    }

    /// Reads once more; whether there was anything.
    fn fill(&mut self) -> io::Result<bool> {
        if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        let room = &mut self.buffer[self.filled.end..];
        let source: &mut dyn Read = match &mut self.source {
            Source::Plain(file) => file,
            Source::Packed(_, decoder) => decoder,
        };
        let count = loop {
            match source.read(room) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if self.is_classic_mac {
            end_lines(&mut room[..count]);
        }
        self.filled.end += count;
        Ok(count > 0)
    }
}

/// The error of a record that is too long.
pub(crate) fn too_long(path: &Path, line: u64, limit: u64) -> Error {
    Error::Record {
        place: Place { path: path.to_owned(), line: line as usize },
        problem: format!("a record has more than {} MiB", limit >> 20),
        remedy: "cut it into smaller ones, and check that the file is what it should be".into(),
    }
}

fn end_lines(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b'\n');
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.filled.is_empty() {
            self.fill()?;
        }
        Ok(&self.buffer[self.filled.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.filled.start += count;
        self.position += count as u64;
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

/// A file that says how much of it was read.
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(into)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}
