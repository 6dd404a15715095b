//! Checksums of files' contents, which say that a file is the same wherever it lies and whenever it
//! was written.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// A file that has not changed since its checksum was computed: its length, and its time of change
/// in seconds and nanoseconds.
type Stamp = (u64, i64, i64);

/// What this process has computed or loaded.
static KNOWN: LazyLock<Mutex<BTreeMap<PathBuf, (Stamp, u32)>>> = LazyLock::new(Mutex::default);

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The CRC-32C of the file's content. It is computed once for a path, length and time of change, in
/// this process and in those before it whose record was loaded ([`load_checksums`]).
///
/// # Errors
/// If it is no regular file, or cannot be read.
pub fn checksum(path: &Path) -> io::Result<u32> {
    let path = std::fs::canonicalize(path)?;
    let file = crate::open(&path).map_err(|error| match error {
        crate::Error::Io(cause) => cause,
        crate::Error::Refused(refusal) => io::Error::other(refusal.what),
    })?;
    let stamp = stamp(&file.metadata()?);
    if let Some((_, sum)) = known().get(&path).filter(|(earlier, _)| *earlier == stamp) {
        return Ok(*sum);
    }
    let sum = of(file)?;
    known().insert(path, (stamp, sum));
    Ok(sum)
}

fn of(mut file: File) -> io::Result<u32> {
    let (mut sum, mut piece) = (0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(sum),
            Ok(read) => sum = crc32c::crc32c_append(sum, &piece[..read]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn known() -> MutexGuard<'static, BTreeMap<PathBuf, (Stamp, u32)>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over what an earlier process has recorded. A record that is not there, or that nobody can
/// read, means that files are read again.
pub fn load_checksums(record: &Path) {
    for line in std::fs::read_to_string(record).unwrap_or_default().lines() {
        let mut words = line.splitn(5, ' ');
        let mut number = || words.next()?.parse::<i64>().ok();
        let (Some(sum), Some(length), Some(seconds), Some(nanoseconds)) =
            (number(), number(), number(), number())
        else {
            continue;
        };
        let (Ok(sum), Ok(length)) = (sum.try_into(), length.try_into()) else { continue };
        if let Some(path) = words.next() {
            known().entry(path.into()).or_insert(((length, seconds, nanoseconds), sum));
        }
    }
}

/// Records the checksums that this process knows: a line for each file, `CRC LENGTH SECONDS
/// NANOSECONDS PATH`. Paths with a line break, or that are not UTF-8, are left out.
///
/// # Errors
/// What the system refused.
pub fn store_checksums(record: &Path) -> Result<(), crate::Unwritten> {
    let line = |(path, ((length, seconds, nanoseconds), sum)): (&PathBuf, &(Stamp, u32))| {
        let path = path.to_str().filter(|path| !path.contains('\n'))?;
        Some(format!("{sum} {length} {seconds} {nanoseconds} {path}\n"))
    };
    let lines: String = known().iter().filter_map(line).collect();
    crate::write(record, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_file_is_read_again_only_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, record) = (dir.path().join("a file"), dir.path().join("record"));
        std::fs::write(&path, "123456789").unwrap();
        // The check value of CRC-32C.
        assert_eq!(checksum(&path).unwrap(), 0xe306_9283);

        store_checksums(&record).unwrap();
        let told = std::fs::read_to_string(&record).unwrap();
        let path = std::fs::canonicalize(&path).unwrap();
        let own = format!(" {}", path.display());
        let line = told.lines().find(|line| line.ends_with(&own)).unwrap();
        let altered = line.replacen(&0xe306_9283_u32.to_string(), "7", 1);
        std::fs::write(&record, format!("not a line\n{altered}\n")).unwrap();
        known().remove(&path);
        load_checksums(&record);
        assert_eq!(checksum(&path).unwrap(), 7, "what is recorded is believed");

        let later = SystemTime::now() + Duration::from_secs(5);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(checksum(&path).unwrap(), 0xe306_9283, "a file that was touched is read again");
    }
}
