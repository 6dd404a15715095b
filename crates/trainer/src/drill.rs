use crate::{Error, Result};

/// A fault on purpose, to see that the job ends as it should: `LORACT_DRILL=panic:1:3` makes rank 1 panic in step 3 (from 1). The kinds are
/// `panic`, `error`, `exit` (without a word, code 3), `kill` (SIGKILL), and `stop` (SIGUSR1, on which the run saves); and while the checkpoint of that step is written, `kill-in-save`
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
                "{VARIABLE} is {text:?}; write KIND:RANK:STEP with panic, error, exit, kill, stop, kill-in-save, full-disk or kill-in-commit as the kind"
            ))
        };
        let mut parts = text.split(':');
        let kind = match parts.next() {
            Some("panic") => Kind::Panic,
            Some("error") => Kind::Error,
            Some("exit") => Kind::Exit,
            Some("kill") => Kind::Kill,
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
            Kind::Kill => Err(Error::Input(kill())),
            Kind::Stop => {
                signal_hook::low_level::raise(signal_hook::consts::SIGUSR1)
                    .map_err(|cause| Error::Input(format!("{VARIABLE}: {cause}")))?;
                // So that it is seen at the end of this step, however short that is.
                std::thread::sleep(std::time::Duration::from_millis(50));
                Ok(())
            }
            Kind::KillInSave | Kind::FullDisk | Kind::KillInCommit => Ok(()),
        }
    }

    /// Fails where this rank writes its share of the checkpoint of this step.
    pub fn in_save(&self, rank: usize, step: u64) -> std::io::Result<()> {
        match self.kind {
            Kind::KillInSave if (rank, step) == (self.rank, self.step) => Err(std::io::Error::other(kill())),
            Kind::FullDisk if (rank, step) == (self.rank, self.step) => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Fails where rank 0 makes the checkpoint of this step current.
    pub fn in_commit(&self, step: u64) -> std::io::Result<()> {
        let meant = self.kind == Kind::KillInCommit && step == self.step;
        if meant { Err(std::io::Error::other(kill())) } else { Ok(()) }
    }
}

/// Kills this process, by the shell's kill, as there is no safe call for it in the standard library. Comes back only if that fails.
fn kill() -> String {
    let killed = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
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
    fn only_its_rank_and_step_fail() {
        let drill = Drill::parse("error:1:3").unwrap();
        assert!(drill.at(1, 2).is_ok() && drill.at(0, 3).is_ok() && drill.at(1, 3).is_err());
        let drill = Drill::parse("full-disk:1:3").unwrap();
        assert!(drill.at(1, 3).is_ok() && drill.in_save(0, 3).is_ok() && drill.in_save(1, 3).is_err() && drill.in_commit(3).is_ok());
    }
}
