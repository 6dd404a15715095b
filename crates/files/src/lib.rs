//! What a file is, told by its type and its first bytes, whatever it is called; and files that are
//! replaced whole or not at all.
//!
//! Files that come from elsewhere are often not what their name says: a pointer that Git LFS left
//! in the place of the file, the web page of a failed download, an archive, a pickle. A reader that
//! asks this crate first can say so, instead of reporting where the parser stopped.
//!
//! ```
//! use loract_files::{Content, content};
//!
//! let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
//! let refusal = content(pointer).refusal().expect("it is not the file");
//! assert_eq!(refusal.what, "a pointer of Git LFS, not the file");
//! assert_eq!(refusal.remedy, "run `git lfs pull` in the repository it comes from");
//! assert_eq!(content(b"{\"text\": \"a\"}"), Content::Unknown);
//! ```
//!
//! [`write()`] and [`replace`] put a file in the place of another one in a single step.
//!
//! [`checksum`] says that a file is the same wherever it lies and whenever it was written.
//! [`open`], [`read`] and [`read_whole`] take regular files only, and the last two only so much.
//!
//! The crate reads no format: it names them.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod checksum;
mod content;
mod replace;

pub use checksum::{checksum, load_checksums, store_checksums};
pub use content::{Content, HEAD, content};
pub use replace::{Unwritten, create_anew, remove_leftovers, replace, write};

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek};
use std::path::Path;

/// Why a file cannot be what is wanted: "it is {what}; {remedy}".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is: `a directory`, `a web page (HTML)`.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Why a file cannot be opened.
#[derive(Debug)]
pub enum Error {
    /// The operating system's reason.
    Io(io::Error),
    /// It is something else than a file of data.
    Refused(Refusal),
}

impl From<Error> for io::Error {
    fn from(why: Error) -> Self {
        match why {
            Error::Io(why) => why,
            Error::Refused(Refusal { what, remedy }) => {
                Self::other(format!("it is {what}; {remedy}"))
            }
        }
    }
}

impl From<io::Error> for Error {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

/// Opens a regular file, and nothing else: a pipe without a writer blocks whoever opens it, and
/// `/dev/zero` never ends.
///
/// # Errors
/// If it is not there, cannot be opened, or is no regular file.
pub fn open(path: &Path) -> Result<File, Error> {
    // Before it is opened: some devices do something when they are opened.
    refuse_irregular(&std::fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // Another may be in its place by now, and a pipe would block.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    refuse_irregular(&file.metadata()?)?;
    Ok(file)
}

fn refuse_irregular(metadata: &Metadata) -> Result<(), Error> {
    irregular(metadata).map_or(Ok(()), |refusal| Err(Error::Refused(refusal)))
}

/// Opens a regular file and says what its first bytes are; it stands at its beginning again.
///
/// # Errors
/// As [`open`], and if it cannot be read.
pub fn open_told(path: &Path) -> Result<(File, Content), Error> {
    let mut file = open(path)?;
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok((file, content(&head)))
}

/// Reads a whole regular file, unless its first bytes say that it is no such file as anything here
/// reads ([`Content::refusal`]).
///
/// # Errors
/// As [`open_told`], and for a file that is refused, or is larger than any description of a model,
/// tokenizer or run ([`LARGEST_TEXT`]).
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let (file, content) = open_told(path)?;
    if let Some(refusal) = content.refusal() {
        return Err(Error::Refused(refusal));
    }
    read_at_most(file, LARGEST_TEXT)
}

/// The same as [`read`], as text.
///
/// # Errors
/// As [`read`], and for what is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why.utf8_error()))
}

/// Reads a whole regular file of at most [`LARGEST_TEXT`], whatever its first bytes say.
///
/// # Errors
/// As [`open`], and for a larger file.
pub fn read_whole(path: &Path) -> Result<Vec<u8>, Error> {
    read_at_most(open(path)?, LARGEST_TEXT)
}

/// The bytes of a file that is read as a whole: 256 MiB.
pub const LARGEST_TEXT: u64 = 256 << 20;

fn read_at_most(file: File, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let (what, remedy) = ("larger than 256 MiB", "check whether it is the right file");
        return Err(Error::Refused(Refusal { what, remedy }));
    }
    Ok(bytes)
}

/// What stands at a path, if it is no regular file.
pub fn irregular(metadata: &Metadata) -> Option<Refusal> {
    let refusal = |what, remedy| Some(Refusal { what, remedy });
    let kind = metadata.file_type();
    if kind.is_file() {
        return None;
    }
    if kind.is_dir() {
        return refusal("a directory", "give the path of a file");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        const SAVE: &str = "save what it gives to a file: it is read more than once";
        if kind.is_fifo() {
            return refusal("a pipe", SAVE);
        }
        if kind.is_socket() {
            return refusal("a socket", SAVE);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return refusal("a device", "give the path of a file");
        }
    }
    refusal("no regular file", "give the path of a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(path: &Path) -> &'static str {
        match open(path) {
            Err(Error::Refused(refusal)) => refusal.what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn directories_devices_pipes_and_sockets_are_refused_without_opening_them() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(what(folder.path()), "a directory");
        assert_eq!(what("/dev/zero".as_ref()), "a device");
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(what(&pipe), "a pipe");
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(what(&socket), "a socket");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(what(&link), "a device");
        assert!(
            matches!(open(&folder.path().join("absent")), Err(Error::Io(why)) if why.kind() == io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn no_more_is_read_than_a_description_can_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        for read in [read, read_whole] {
            let refused = io::Error::from(read(&path).unwrap_err()).to_string();
            assert_eq!(refused, "it is larger than 256 MiB; check whether it is the right file");
        }
    }

    #[test]
    fn a_file_is_read_whole_unless_it_is_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let text = format!("{{\"a\": \"{}\"}}", "b".repeat(3 * HEAD));
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap(), text.as_bytes());
        std::fs::write(&path, "<!DOCTYPE html>\n<html>").unwrap();
        assert!(
            matches!(read(&path), Err(Error::Refused(refusal)) if refusal.what.contains("web page"))
        );
    }
}
