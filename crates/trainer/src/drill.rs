use crate::{Error, Result};
use tch::Tensor;

/// A fault on purpose, to see that the job ends as it should: `LORACT_DRILL=panic:1:3` makes rank 1 panic in step 3 (from 1). The kinds are
/// `panic`, `error`, `exit` (without a word, code 3), `kill` (SIGKILL), `freeze` (SIGSTOP), `hang` (it lives and does nothing), `corrupt` (one number
/// of a parameter changes a little), `memory` (it asks for more than there is), and `stop` (SIGUSR1, on which the run saves); and while the checkpoint of that step is written, `kill-in-save`
/// (when the rank's file is there), `full-disk` (instead of it), and on rank 0 `kill-in-commit` (when all is there but its name).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drill {
    kind: Kind,
    rank: usize,
    step: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// The variable that asks for a drill.
pub const VARIABLE: &str = "LORACT_DRILL";

impl Drill {
    /// What the environment asks for.
    pub fn from_environment() -> Result<Option<Self>> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let refuse = || {
            Error::Input(format!(
                "{VARIABLE} is {text:?}; write KIND:RANK:STEP with panic, error, exit, kill, freeze, hang, corrupt, memory, stop, kill-in-save, full-disk or kill-in-commit as the kind"
            ))
        };
        let mut parts = text.split(':');
        let kind = match parts.next() {
            Some("panic") => Kind::Panic,
            Some("error") => Kind::Error,
            Some("exit") => Kind::Exit,
            Some("kill") => Kind::Kill,
            Some("freeze") => Kind::Freeze,
            Some("hang") => Kind::Hang,
            Some("corrupt") => Kind::Corrupt,
            Some("memory") => Kind::Memory,
            Some("stop") => Kind::Stop,
            Some("kill-in-save") => Kind::KillInSave,
            Some("full-disk") => Kind::FullDisk,
            Some("kill-in-commit") => Kind::KillInCommit,
            _ => return Err(refuse()),
        };
        let rank = parts.next().and_then(|rank| rank.parse().ok()).ok_or_else(refuse)?;
        let step = parts.next().and_then(|step| step.parse().ok()).ok_or_else(refuse)?;
        if parts.next().is_some() {
            return Err(refuse());
        }
        Ok(Self { kind, rank, step })
    }

    /// Fails if this is the rank and the step.
    pub fn at(&self, rank: usize, step: u64) -> Result<()> {
        if (rank, step) != (self.rank, self.step) {
            return Ok(());
        }
        match self.kind {
            Kind::Panic => panic!("{VARIABLE} asked for a panic"),
            Kind::Error => Err(Error::Drill),
            Kind::Exit => std::process::exit(3),
            Kind::Kill => Err(Error::Input(kill("-KILL"))),
            Kind::Freeze => {
                // It goes on only if somebody wakes it.
                kill("-STOP");
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
                // So that it is seen at the end of this step, however short that is.
                std::thread::sleep(std::time::Duration::from_millis(50));
                Ok(())
            }
            Kind::Corrupt | Kind::KillInSave | Kind::FullDisk | Kind::KillInCommit => Ok(()),
        }
    }

    /// Changes the first element of a parameter if this is the rank and the step.
    pub fn corrupt(&self, rank: usize, step: u64, parameter: &Tensor) -> Result<()> {
        if (self.kind, rank, step) == (Kind::Corrupt, self.rank, self.step) {
            let _no_grad = tch::no_grad_guard();
            let _ = parameter.f_view([-1])?.f_narrow(0, 0, 1)?.f_add_scalar_(1e-3)?;
        }
        Ok(())
    }

    /// Fails where this rank writes its share of the checkpoint of this step.
    pub fn in_save(&self, rank: usize, step: u64) -> std::io::Result<()> {
        match self.kind {
            Kind::KillInSave if (rank, step) == (self.rank, self.step) => Err(std::io::Error::other(kill("-KILL"))),
            Kind::FullDisk if (rank, step) == (self.rank, self.step) => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Fails where rank 0 makes the checkpoint of this step current.
    pub fn in_commit(&self, step: u64) -> std::io::Result<()> {
        let meant = self.kind == Kind::KillInCommit && step == self.step;
        if meant { Err(std::io::Error::other(kill("-KILL"))) } else { Ok(()) }
    }
}

/// Signals this process, by the shell's kill, as there is no safe call for it in the standard library. From `-KILL` it comes back only if that
/// fails.
fn kill(signal: &str) -> String {
    let killed = std::process::Command::new("kill").args([signal, &std::process::id().to_string()]).status();
    format!("{VARIABLE}: kill did not kill ({killed:?})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_drill_names_kind_rank_and_step() {
        assert_eq!(Drill::parse("kill:1:3").unwrap(), Drill { kind: Kind::Kill, rank: 1, step: 3 });
        for wrong in ["", "panic", "panic:1", "panic:x:1", "boom:1:1", "panic:1:1:1"] {
            assert!(Drill::parse(wrong).unwrap_err().to_string().contains("KIND:RANK:STEP"), "{wrong}");
        }
    }

    #[test]
    fn a_parameter_is_corrupted_once() {
        let parameter = Tensor::zeros([2, 2], (tch::Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let drill = Drill::parse("corrupt:1:3").unwrap();
        drill.at(1, 3).unwrap();
        for (rank, step) in [(0, 3), (1, 2), (1, 3)] {
            assert_eq!(parameter.count_nonzero(None::<i64>).int64_value(&[]), 0);
            drill.corrupt(rank, step, &parameter).unwrap();
        }
        assert_eq!(parameter.count_nonzero(None::<i64>).int64_value(&[]), 1);
    }

    #[test]
    fn only_its_rank_and_step_fail() {
        let drill = Drill::parse("error:1:3").unwrap();
        assert!(drill.at(1, 2).is_ok() && drill.at(0, 3).is_ok() && drill.at(1, 3).is_err());
        let drill = Drill::parse("full-disk:1:3").unwrap();
        assert!(drill.at(1, 3).is_ok() && drill.in_save(0, 3).is_ok() && drill.in_save(1, 3).is_err() && drill.in_commit(3).is_ok());
    }
}
