use crate::{Error, Result};

/// A fault on purpose, to see that the job ends as it should: `LORACT_DRILL=panic:1:3` makes rank 1 panic in step 3 (from 1). The kinds are
/// `panic`, `error`, `exit` (without a word, code 3) and `kill` (SIGKILL).
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
        let refuse = || Error::Input(format!("{VARIABLE} is {text:?}; write KIND:RANK:STEP with panic, error, exit or kill as the kind"));
        let mut parts = text.split(':');
        let kind = match parts.next() {
            Some("panic") => Kind::Panic,
            Some("error") => Kind::Error,
            Some("exit") => Kind::Exit,
            Some("kill") => Kind::Kill,
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
            Kind::Kill => {
                // The shell's kill, as there is no safe call for it in the standard library.
                let killed = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
                Err(Error::Input(format!("{VARIABLE}: kill did not kill ({killed:?})")))
            }
        }
    }
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
    }
}
