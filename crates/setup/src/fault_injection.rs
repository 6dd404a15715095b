use std::path::{Path, PathBuf};

use rustix::process::{Signal, getpid, kill_process};
use tch::Tensor;

use crate::{Error, Result};

/// A fault on purpose, with which tests see that the job ends as it should:
/// `LORACT_INJECT_FAULT=panic:1:3` makes rank 1 panic in step 3 (from 1). Without the variable
/// nothing here does anything.
///
/// In a step: `panic`, `error`, `exit` (without a message, code 3), `kill` (SIGKILL), `freeze`
/// (SIGSTOP), `hang` (the process lives and does nothing), `corrupt` (one number of a parameter
/// changes a little), `memory` (it asks for more than there is), and `stop` (SIGUSR1, on which the
/// run saves). While the checkpoint of that step is written: `kill-in-save` (when the rank's file
/// is there), `full-disk` (instead of it), and on rank 0 `kill-in-commit` (when all is there but
/// its name).
///
/// `pause:1:3:FIFO` lets rank 1 wait at the beginning of step 3 for a test, which can then look at
/// a run, signal or kill it without a race. While data are prepared, `pause-in-prepare:0:2:FIFO`
/// does so once the training data's part 2 (from 0) is written, and `pause-after-prepare:0:0:FIFO`
/// once all are. FIFO is the path of a named pipe (`mkfifo`): the process opens it for reading, and
/// waits until somebody has opened it for writing and closed it again. Where there is none, it does
/// not wait, so that a test that removes the pipe stops a run only once.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultInjection {
    kind: Kind,
    rank: usize,
    step: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Panic,
    Error,
    Exit,
    Kill,
    Freeze,
    Hang,
    Corrupt,
    Memory,
    Stop,
    KillInSave,
    FullDisk,
    KillInCommit,
    Pause(PathBuf),
    PauseInPrepare(PathBuf),
    PauseAfterPrepare(PathBuf),
}

/// The variable that asks for a fault.
pub const VARIABLE: &str = "LORACT_INJECT_FAULT";

impl FaultInjection {
    /// The fault that the environment asks for, if any.
    ///
    /// # Errors
    /// A value that names no fault.
    pub fn from_environment() -> Result<Option<Self>> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let refuse = || {
            Error::Input(format!(
                "{VARIABLE} is {text:?}; write KIND:RANK:STEP with panic, error, exit, kill, freeze, hang, corrupt, memory, stop, \
                 kill-in-save, full-disk or kill-in-commit as the kind, or KIND:RANK:STEP:FIFO with pause, pause-in-prepare or \
                 pause-after-prepare"
            ))
        };
        let mut parts = text.splitn(4, ':');
        let kind = parts.next();
        let rank = parts.next().and_then(|rank| rank.parse().ok()).ok_or_else(refuse)?;
        let step = parts.next().and_then(|step| step.parse().ok()).ok_or_else(refuse)?;
        let kind = match (kind, parts.next()) {
            (Some("panic"), None) => Kind::Panic,
            (Some("error"), None) => Kind::Error,
            (Some("exit"), None) => Kind::Exit,
            (Some("kill"), None) => Kind::Kill,
            (Some("freeze"), None) => Kind::Freeze,
            (Some("hang"), None) => Kind::Hang,
            (Some("corrupt"), None) => Kind::Corrupt,
            (Some("memory"), None) => Kind::Memory,
            (Some("stop"), None) => Kind::Stop,
            (Some("kill-in-save"), None) => Kind::KillInSave,
            (Some("full-disk"), None) => Kind::FullDisk,
            (Some("kill-in-commit"), None) => Kind::KillInCommit,
            (Some("pause"), Some(fifo)) => Kind::Pause(fifo.into()),
            (Some("pause-in-prepare"), Some(fifo)) => Kind::PauseInPrepare(fifo.into()),
            (Some("pause-after-prepare"), Some(fifo)) => Kind::PauseAfterPrepare(fifo.into()),
            _ => return Err(refuse()),
        };
        Ok(Self { kind, rank, step })
    }

    /// Fails, or waits, if this is the rank and the step. `is_stopped` tells whether a signal has
    /// asked this rank to stop.
    ///
    /// # Errors
    /// The fault, if it is an error.
    pub fn at(&self, rank: usize, step: u64, is_stopped: &dyn Fn() -> bool) -> Result<()> {
        if (rank, step) != (self.rank, self.step) {
            return Ok(());
        }
        match &self.kind {
            Kind::Panic => panic!("{VARIABLE} asked for a panic"),
            Kind::Error => Err(Error::InjectedFault),
            Kind::Exit => std::process::exit(3),
            Kind::Kill => Err(Error::Input(kill(Signal::KILL))),
            Kind::Freeze => {
                // It continues only if somebody wakes it.
                kill(Signal::STOP);
                Ok(())
            }
            Kind::Hang => loop {
                std::thread::park();
            },
            Kind::Memory => {
                let _ = Tensor::f_empty([1 << 50], (tch::Kind::Uint8, tch::Device::Cpu))?;
                Ok(())
            }
            Kind::Stop => {
                signal_hook::low_level::raise(signal_hook::consts::SIGUSR1)
                    .map_err(|cause| Error::Input(format!("{VARIABLE}: {cause}")))?;
                // Another thread takes the signal: this very step shall see it.
                while !is_stopped() {
                    std::thread::yield_now();
                }
                Ok(())
            }
            Kind::Pause(fifo) => {
                wait(fifo);
                Ok(())
            }
            Kind::Corrupt | Kind::KillInSave | Kind::FullDisk | Kind::KillInCommit => Ok(()),
            Kind::PauseInPrepare(_) | Kind::PauseAfterPrepare(_) => Ok(()),
        }
    }

    /// Changes the first element of a parameter if this is the rank and the step.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn corrupt(&self, rank: usize, step: u64, parameter: &Tensor) -> Result<()> {
        if (&self.kind, rank, step) == (&Kind::Corrupt, self.rank, self.step) {
            let _no_grad = tch::no_grad_guard();
            let _ = parameter.f_view([-1])?.f_narrow(0, 0, 1)?.f_add_scalar_(1e-3)?;
        }
        Ok(())
    }

    /// Fails where this rank writes its shard of the checkpoint of this step.
    ///
    /// # Errors
    /// The fault.
    pub fn in_save(&self, rank: usize, step: u64) -> std::io::Result<()> {
        match self.kind {
            Kind::KillInSave if (rank, step) == (self.rank, self.step) => {
                Err(std::io::Error::other(kill(Signal::KILL)))
            }
            Kind::FullDisk if (rank, step) == (self.rank, self.step) => {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Fails where rank 0 commits the checkpoint of this step.
    ///
    /// # Errors
    /// The fault.
    pub fn in_commit(&self, step: u64) -> std::io::Result<()> {
        let meant = self.kind == Kind::KillInCommit && step == self.step;
        if meant { Err(std::io::Error::other(kill(Signal::KILL))) } else { Ok(()) }
    }

    /// Waits where data are being prepared, if the part is written, which `is_written` tells by its
    /// number.
    pub fn in_prepare(&self, is_written: impl FnOnce(u64) -> bool) {
        match &self.kind {
            Kind::PauseInPrepare(fifo) if is_written(self.step) => wait(fifo),
            _ => {}
        }
    }

    /// Waits where prepared data have been written.
    pub fn after_prepare(&self) {
        if let Kind::PauseAfterPrepare(fifo) = &self.kind {
            wait(fifo);
        }
    }
}

/// Waits until somebody has opened the named pipe for writing and closed it. Opening it tells them
/// that this process is here.
fn wait(fifo: &Path) {
    // There may be none, or none any more.
    let _ = std::fs::read(fifo);
}

/// Signals this process. From `KILL` it comes back only if that fails.
fn kill(signal: Signal) -> String {
    let killed = kill_process(getpid(), signal);
    format!("{VARIABLE}: the signal had no effect ({killed:?})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> FaultInjection {
        FaultInjection::parse(text).unwrap()
    }

    fn at(fault: &FaultInjection, rank: usize, step: u64) -> Result<()> {
        fault.at(rank, step, &|| false)
    }

    #[test]
    fn a_fault_names_kind_rank_and_step() {
        assert_eq!(parse("kill:1:3"), FaultInjection { kind: Kind::Kill, rank: 1, step: 3 });
        assert_eq!(
            parse("pause:0:2:/a:b"),
            FaultInjection { kind: Kind::Pause("/a:b".into()), rank: 0, step: 2 }
        );
        for wrong in ["", "panic", "panic:1", "panic:x:1", "boom:1:1", "panic:1:1:1", "pause:1:1"] {
            assert!(
                FaultInjection::parse(wrong).unwrap_err().to_string().contains("KIND:RANK:STEP"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_parameter_is_corrupted_once() {
        let parameter =
            Tensor::zeros([2, 2], (tch::Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let fault = parse("corrupt:1:3");
        at(&fault, 1, 3).unwrap();
        for (rank, step) in [(0, 3), (1, 2), (1, 3)] {
            assert_eq!(parameter.count_nonzero(None::<i64>).int64_value(&[]), 0);
            fault.corrupt(rank, step, &parameter).unwrap();
        }
        assert_eq!(parameter.count_nonzero(None::<i64>).int64_value(&[]), 1);
    }

    #[test]
    fn only_its_rank_and_step_fail() {
        let fault = parse("error:1:3");
        assert!(at(&fault, 1, 2).is_ok() && at(&fault, 0, 3).is_ok() && at(&fault, 1, 3).is_err());
        let fault = parse("full-disk:1:3");
        assert!(
            at(&fault, 1, 3).is_ok()
                && fault.in_save(0, 3).is_ok()
                && fault.in_save(1, 3).is_err()
                && fault.in_commit(3).is_ok()
        );
    }

    #[test]
    fn a_pause_ends_when_the_other_end_of_its_pipe_is_closed_and_without_a_pipe_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let fault = parse(&format!("pause:1:3:{}", fifo.display()));
        at(&fault, 1, 3).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // Elsewhere it does not even look.
        at(&fault, 0, 3).unwrap();
        fault.after_prepare();
        let paused = std::thread::spawn(move || at(&fault, 1, 3));
        // This waits for the other thread, and holds it.
        let writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        assert!(!paused.is_finished());
        drop(writer);
        paused.join().unwrap().unwrap();
    }

    #[test]
    fn a_pause_of_the_preparation_is_at_its_part() {
        let fault = parse("pause-in-prepare:0:2:/no/pipe");
        let mut asked = None;
        fault.in_prepare(|part| asked.replace(part).is_some());
        assert_eq!(asked, Some(2));
        fault.in_prepare(|_| true);
        at(&fault, 0, 2).unwrap();
        parse("pause:0:2:/no/pipe").in_prepare(|_| panic!("it is another point"));
    }
}
