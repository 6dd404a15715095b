//! The two families of mpirun, and how each is told what to start.

use std::{ffi::OsString, path::Path, process::Command};

/// Which MPI an `mpirun` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Open MPI, with its runtime ORTE (version 4) or PRRTE (version 5).
    OpenMpi,
    /// MPICH's hydra, and Intel MPI, which is made from it.
    Hydra,
}

/// What to start.
#[derive(Debug, Clone, Copy)]
pub struct Ranks<'a> {
    /// How many.
    pub count: usize,
    /// Hardware threads of this host.
    pub cores: usize,
    /// Whether the user is root.
    pub as_root: bool,
    /// Environment variables for every rank.
    pub environment: &'a [&'a str],
    /// Arguments from the configuration.
    pub arguments: &'a [String],
    /// The program, and its arguments.
    pub program: &'a [OsString],
}

impl Dialect {
    /// Asks `mpirun --version`. The error says what is wrong, and what to do.
    pub fn from_program(mpirun: &str) -> Result<Self, String> {
        let output = Command::new(mpirun).arg("--version").output().map_err(|cause| {
            format!("cannot run {}: {cause}; install Open MPI or MPICH, or give the path of their mpirun", Path::new(mpirun).display())
        })?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Self::told_by(&said).ok_or_else(|| {
            let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            format!("{mpirun} --version says {first:?}, which is neither Open MPI nor MPICH; give the path of one of their mpirun")
        })
    }

    fn told_by(version: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| version.contains(word));
        if says(&["Open MPI", "OpenRTE", "PRRTE", "prterun"]) {
            Some(Self::OpenMpi)
        } else if says(&["HYDRA", "Intel(R) MPI", "MPICH"]) {
            Some(Self::Hydra)
        } else {
            None
        }
    }

    /// mpirun's arguments. Those of the configuration come after ours, so that they can say
    /// otherwise.
    pub fn arguments(self, ranks: &Ranks<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        match self {
            Self::OpenMpi => {
                if ranks.as_root {
                    push(&["--allow-run-as-root"]);
                }
                // Open MPI offers one slot per core; what is counted here are hardware threads, of
                // which a core may have two.
                if ranks.count * 2 > ranks.cores {
                    push(&["--oversubscribe"]);
                }
                push(&["--bind-to", "none"]);
                ranks.environment.iter().for_each(|name| push(&["-x", name]));
            }
            Self::Hydra => {
                push(&["-bind-to", "none"]);
                if !ranks.environment.is_empty() {
                    push(&["-genvlist", &ranks.environment.join(",")]);
                }
            }
        }
        arguments.extend(ranks.arguments.iter().map(OsString::from));
        arguments.extend([OsString::from("-n"), ranks.count.to_string().into()]);
        arguments.extend(ranks.program.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_family_is_told_by_the_version() {
        assert_eq!(
            Dialect::told_by("mpirun (Open MPI) 4.1.4\n\nReport bugs to"),
            Some(Dialect::OpenMpi)
        );
        assert_eq!(Dialect::told_by("prterun (PRRTE) 3.0.1"), Some(Dialect::OpenMpi));
        assert_eq!(
            Dialect::told_by("HYDRA build details:\n    Version: 4.0.2"),
            Some(Dialect::Hydra)
        );
        assert_eq!(
            Dialect::told_by("Intel(R) MPI Library for Linux* OS, Version 2021.9"),
            Some(Dialect::Hydra)
        );
        assert_eq!(Dialect::told_by("hello"), None);
        let message = Dialect::from_program("/no/such/mpirun").unwrap_err();
        assert!(
            message.contains("cannot run /no/such/mpirun") && message.contains("install Open MPI"),
            "{message}"
        );
        assert!(
            Dialect::from_program("/bin/true").unwrap_err().contains("neither Open MPI nor MPICH")
        );
    }

    fn line(dialect: Dialect, count: usize, as_root: bool) -> String {
        let arguments = ["--hostfile".to_owned(), "hosts".to_owned()];
        let program = ["loract".into(), "train".into()];
        let ranks = Ranks {
            count,
            cores: 8,
            as_root,
            environment: &["A", "B"],
            arguments: &arguments,
            program: &program,
        };
        dialect.arguments(&ranks).join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn open_mpi_is_told_in_its_own_words() {
        assert_eq!(
            line(Dialect::OpenMpi, 4, false),
            "--bind-to none -x A -x B --hostfile hosts -n 4 loract train"
        );
        assert_eq!(
            line(Dialect::OpenMpi, 5, true),
            "--allow-run-as-root --oversubscribe --bind-to none -x A -x B --hostfile hosts -n 5 loract train"
        );
    }

    #[test]
    fn hydra_is_told_in_its_own_words() {
        assert_eq!(
            line(Dialect::Hydra, 9, true),
            "-bind-to none -genvlist A,B --hostfile hosts -n 9 loract train"
        );
    }
}
