//! Points at which a process waits for the test, instead of a test that races with a process.

use super::{Place, Running};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use std::{
    fs::{File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// A point at which a process of a job will wait.
pub struct Pause {
    fifo: PathBuf,
    rank: usize,
}

/// A process that waits there. It continues when this is dropped, and will not wait again; nor will
/// one that takes its place after it was killed.
#[must_use]
pub struct Paused {
    rank: usize,
    _held: File,
}

static MADE: AtomicU32 = AtomicU32::new(0);

impl Place {
    /// Lets rank `rank` of the job that `command` starts wait at the beginning of step `step`, from
    /// 1.
    pub fn pause(&self, command: &mut Command, rank: usize, step: u64) -> Pause {
        self.pause_at(command, "pause", rank, step)
    }

    /// The same at another point: `pause-in-prepare`, `pause-after-prepare`.
    pub fn pause_at(&self, command: &mut Command, point: &str, rank: usize, step: u64) -> Pause {
        let fifo = self.scratch().join(format!("pause-{}", MADE.fetch_add(1, Ordering::Relaxed)));
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        command
            .env(setup::INJECT_FAULT_VARIABLE, format!("{point}:{rank}:{step}:{}", fifo.display()));
        Pause { fifo, rank }
    }
}

impl Pause {
    /// Waits until the process waits there.
    pub fn reached(self, job: &mut Running<'_>) -> Paused {
        let mut held = None;
        job.until("a process that waits at its pause", || {
            held = held.take().or_else(|| reader_of(&self.fifo));
            held.is_some()
        });
        std::fs::remove_file(&self.fifo).unwrap();
        Paused { rank: self.rank, _held: held.unwrap() }
    }
}

impl Paused {
    /// The rank that waits.
    pub fn rank(&self) -> usize {
        self.rank
    }
}

/// The other end of the pipe, once somebody has opened it for reading.
fn reader_of(fifo: &Path) -> Option<File> {
    match OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(fifo)
    {
        Ok(file) => Some(file),
        // There is no reader yet.
        Err(cause) if cause.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => None,
        Err(cause) if cause.kind() == ErrorKind::Interrupted => None,
        Err(cause) => panic!("{}: {cause}", fifo.display()),
    }
}
