//! The lock of a run directory: one run, one owner.
//!
//! Two files in the directory say who uses it: `run.lock` is held by `launch`, or by rank 0 where
//! nobody launched it, and `ranks.lock` by rank 0. A start needs both, so that ranks that have
//! outlived their `launch` keep a second one out.
//!
//! Each file is locked with `flock`, which ends with the process that holds it, on NFS also across
//! hosts. Where a file system has no such locks, or has them for one host only, a lease counts:
//! the owner renews the time of the file, and is taken for dead when that has not changed for
//! [`LEASE`].

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    time::{Duration, Instant, SystemTime},
};

/// An owner on another host whose file has not changed for so long is dead.
const LEASE: Duration = Duration::from_secs(30);
/// How often an owner renews it.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long rank 0 waits for the ranks before it, which are about to end.
const FOR_EARLIER_RANKS: Duration = Duration::from_secs(20);
/// A lock file is small; more is not ours.
const LONGEST: u64 = 4096;

const RUN: &str = "run.lock";
const RANKS: &str = "ranks.lock";

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    host: String,
    process: u32,
    since: String,
    command: String,
}

/// The lock of a run directory, until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    dir: PathBuf,
    run: Option<Slot>,
    ranks: Option<Slot>,
    /// Directories that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

impl RunLock {
    /// Locks `dir` for `command`: before anything in it is read or removed.
    ///
    /// # Errors
    /// Another process uses the directory, or nothing can be written there.
    pub fn acquire(dir: &Path, command: &str) -> Result<Self, Failure> {
        let made = missing(dir);
        std::fs::create_dir_all(dir).map_err(|cause| unwritable(dir, &cause))?;
        let mut lock = Self { dir: dir.to_owned(), run: None, ranks: None, made };
        lock.run = Some(lock.take(RUN, command, Duration::ZERO)?);
        lock.ranks = Some(lock.take(RANKS, command, Duration::ZERO)?);
        Ok(lock)
    }

    /// The part of rank 0, whose `launch` has locked the directory.
    ///
    /// # Errors
    /// As [`RunLock::acquire`].
    pub fn acquire_for_ranks(dir: &Path) -> Result<Self, Failure> {
        let mut lock = Self { dir: dir.to_owned(), run: None, ranks: None, made: Vec::new() };
        lock.ranks = Some(lock.take(RANKS, "rank 0", FOR_EARLIER_RANKS)?);
        Ok(lock)
    }

    /// Leaves the part of the ranks to rank 0, which is about to start.
    pub fn hand_over(&mut self) {
        self.ranks = None;
    }

    fn take(&self, name: &str, command: &str, patience: Duration) -> Result<Slot, Failure> {
        let path = self.dir.join(name);
        let end = Instant::now() + patience;
        loop {
            match Slot::take(&path, &Owner::this(command)) {
                Ok(slot) => return Ok(slot),
                Err(Refused::Held(_)) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(Refused::Held(owner)) => return Err(in_use(&self.dir, owner.as_ref())),
                Err(Refused::Io(cause)) => return Err(unwritable(&self.dir, &cause)),
            }
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        (self.run, self.ranks) = (None, None);
        for dir in &self.made {
            // One that is not empty stays.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

fn in_use(dir: &Path, owner: Option<&Owner>) -> Failure {
    let who = owner.map_or_else(
        || "another process".to_owned(),
        |Owner { host, process, since, command }| {
            format!("{command} (process {process} on host {host}, since {since})")
        },
    );
    Failure::Input(format!(
        "{} is in use by {who}; wait until that has ended, or give this run another directory: --set run.dir=DIR",
        dir.display()
    ))
}

fn unwritable(dir: &Path, cause: &io::Error) -> Failure {
    let dir = dir.display();
    match cause.kind() {
        ErrorKind::StorageFull => Failure::other(format!("cannot write in {dir}: {cause}")),
        _ => Failure::Input(format!(
            "cannot write in the run directory {dir}: {cause}; make it writable, or give another one: --set run.dir=DIR"
        )),
    }
}

/// The directories of `dir` that are not there, the deepest first.
fn missing(dir: &Path) -> Vec<PathBuf> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    dir.ancestors().take_while(is_missing).map(Path::to_owned).collect()
}

/// A lock file that this process holds.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: File,
    /// Closed to end the renewals.
    _renewals: Sender<()>,
}

enum Refused {
    Held(Option<Owner>),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

impl Slot {
    fn take(path: &Path, owner: &Owner) -> Result<Self, Refused> {
        loop {
            let mut file = open(path)?;
            let is_exclusive = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => return Err(Refused::Held(read(path))),
                // The file system has no locks: the lease alone counts.
                Err(TryLockError::Error(_)) => false,
            };
            // The owner before may have removed the file between the two calls.
            if !is_at(&file, path) {
                continue;
            }
            if let Some(earlier) = read(path)
                && earlier.may_live(is_exclusive)
                && is_renewed(path, LEASE)
            {
                return Err(Refused::Held(Some(earlier)));
            }
            file.set_len(0)?;
            file.write_all(&serde_json::to_vec(owner).unwrap_or_default())?;
            file.sync_all()?;
            let renewals = renew(path.to_owned(), file.try_clone()?)?;
            return Ok(Self { path: path.to_owned(), file, _renewals: renewals });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // What cannot be removed is free as soon as the file is closed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Owner {
    fn this(command: &str) -> Self {
        let since = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        Self { host: host(), process: std::process::id(), since, command: command.to_owned() }
    }

    /// Whether this owner may be alive, where the file could be locked or (`is_exclusive` is
    /// false) cannot be.
    fn may_live(&self, is_exclusive: bool) -> bool {
        match self.host == host() {
            // The lock of a process of this host would have ended with it, and not before.
            true => !is_exclusive && Path::new(&format!("/proc/{}", self.process)).exists(),
            false => true,
        }
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Opens the file, or makes it. What somebody put in its place is not followed, and does not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is no regular file", path.display()))),
    }
}

fn read(path: &Path) -> Option<Owner> {
    let mut text = Vec::new();
    open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |of: io::Result<std::fs::Metadata>| of.map(|of| (of.dev(), of.ino())).ok();
    let own = identity(file.metadata());
    own.is_some() && own == identity(std::fs::symlink_metadata(path))
}

/// Whether the time of the file changes within `lease`. An old one is not waited for.
fn is_renewed(path: &Path, lease: Duration) -> bool {
    // Opened each time: a network file system then asks its server.
    let time = || open(path).and_then(|file| file.metadata()?.modified()).ok();
    let first = time();
    let age = first.and_then(|first| SystemTime::now().duration_since(first).ok());
    // The clocks of two hosts may differ, but not by so much.
    if age.is_some_and(|age| age > 20 * lease) {
        return false;
    }
    eprintln!("waiting to see whether the last owner of {} is alive", path.display());
    let end = Instant::now() + lease;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        if time() != first {
            return true;
        }
    }
    false
}

/// Renews the lease until the other end is dropped. An owner that has lost its lock, as a host
/// that was suspended may, exits at once: another process writes here now.
fn renew(path: PathBuf, file: File) -> io::Result<Sender<()>> {
    let (sender, stop) = channel();
    let renew = move || {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(RENEW_EVERY) {
            if !is_at(&file, &path) && path.exists() {
                let owner = in_use(path.parent().unwrap_or(&path), read(&path).as_ref());
                eprintln!("error: this process has lost its lock: {}", owner.message());
                std::process::exit(1);
            }
            // Where the time cannot be set, the lock itself still counts.
            let _ = file.set_modified(SystemTime::now());
        }
    };
    std::thread::Builder::new().name("lock".into()).spawn(renew)?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(dir: &Path) -> String {
        match RunLock::acquire(dir, "a second run") {
            Err(Failure::Input(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn write(path: &Path, host: &str, process: u32) {
        let owner = Owner { host: host.into(), process, ..Owner::this("an earlier run") };
        std::fs::write(path, serde_json::to_vec(&owner).unwrap()).unwrap();
    }

    #[test]
    fn a_second_owner_is_refused_with_the_first_ones_name_until_it_ends() {
        let at = tempfile::tempdir().unwrap();
        let dir = at.path().join("runs/a");
        let mut first = RunLock::acquire(&dir, "loract launch").unwrap();
        let message = refusal(&dir);
        let who = format!("is in use by loract launch (process {} on host", std::process::id());
        assert!(message.contains(&who) && message.contains("--set run.dir=DIR"), "{message}");

        first.hand_over();
        let ranks = RunLock::acquire_for_ranks(&dir).unwrap();
        drop(first);
        assert!(refusal(&dir).contains("is in use by rank 0"), "ranks keep others out, too");
        drop(ranks);
        drop(RunLock::acquire(&dir, "a third run").unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "no lock is left");

        let other = at.path().join("others/b");
        drop(RunLock::acquire(&other, "a refused run").unwrap());
        assert!(!at.path().join("others").exists(), "nothing is left of a run that wrote nothing");
    }

    #[test]
    fn the_lock_of_a_dead_process_of_this_host_is_free() {
        let at = tempfile::tempdir().unwrap();
        write(&at.path().join(RUN), &host(), std::process::id());
        std::fs::write(at.path().join(RANKS), "not ours").unwrap();
        drop(RunLock::acquire(at.path(), "a third run").unwrap());
    }

    #[test]
    fn an_owner_on_another_host_counts_as_long_as_it_renews_its_lease() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join(RUN);
        write(&path, "elsewhere", 1);
        let file = open(&path).unwrap();
        let (stop, stopped) = channel::<()>();
        let renews = std::thread::spawn(move || {
            while stopped
                .recv_timeout(Duration::from_millis(50))
                .is_err_and(|end| end == RecvTimeoutError::Timeout)
            {
                file.set_modified(SystemTime::now()).unwrap();
            }
        });
        assert!(refusal(at.path()).contains("process 1 on host elsewhere"));
        drop(stop);
        renews.join().unwrap();
        assert!(!is_renewed(&path, Duration::from_millis(300)), "a lease that nobody renews ends");
        open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        drop(RunLock::acquire(at.path(), "a third run").unwrap());
    }

    #[test]
    fn nothing_else_is_taken_for_a_lock_or_written_through() {
        let at = tempfile::tempdir().unwrap();
        let precious = at.path().join("precious");
        std::fs::write(&precious, "kept").unwrap();
        let dir = at.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(&precious, dir.join(RUN)).unwrap();
        assert!(refusal(&dir).contains("cannot write in the run directory"));
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "kept");
        std::fs::remove_file(dir.join(RUN)).unwrap();
        std::fs::create_dir(dir.join(RUN)).unwrap();
        assert!(refusal(&dir).contains("cannot write in the run directory"));
        assert!(refusal(&precious).contains("cannot write in the run directory"));
    }
}
