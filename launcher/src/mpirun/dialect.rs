//! What differs between the `mpirun` of each MPI: how it is told what to start, and where.

use config::Mpi;
use std::{ffi::OsString, path::Path, process::Command};

/// Which MPI an `mpirun` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Open MPI up to version 4, with its runtime ORTE.
    OpenMpi,
    /// Open MPI from version 5, with PRRTE as its runtime.
    Prrte,
    /// MPICH, with its process manager hydra.
    Mpich,
    /// Intel MPI, with a hydra of its own.
    Intel,
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
    /// Environment variables of this process for every rank.
    pub environment: &'a [String],
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
        let major = version.split_once("(Open MPI) ").and_then(|(_, number)| {
            number.split(|letter: char| !letter.is_ascii_digit()).next()?.parse::<u32>().ok()
        });
        match major {
            Some(major) if major >= 5 => Some(Self::Prrte),
            _ if says(&["PRRTE", "prterun"]) => Some(Self::Prrte),
            _ if says(&["Open MPI", "OpenRTE"]) => Some(Self::OpenMpi),
            // It names hydra, too.
            _ if says(&["Intel(R) MPI"]) => Some(Self::Intel),
            _ if says(&["HYDRA", "MPICH"]) => Some(Self::Mpich),
            _ => None,
        }
    }

    /// The words of job files for `mpi`. Which version of Open MPI will read them is unknown there;
    /// both take those of version 4, but for [`Dialect::oversubscription`].
    pub fn for_job_files(mpi: Mpi) -> Self {
        match mpi {
            Mpi::OpenMpi => Self::OpenMpi,
            Mpi::Mpich => Self::Mpich,
            Mpi::Intel => Self::Intel,
        }
    }

    /// Leaves each rank all cores of its host: its threads would otherwise share the one that it is
    /// bound to.
    pub fn unbound(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi | Self::Prrte => &["--bind-to", "none"],
            Self::Mpich => &["-bind-to", "none"],
            Self::Intel => &["-genv", "I_MPI_PIN", "off"],
        }
    }

    /// The option that names a file of hosts.
    pub fn hostfile(self) -> &'static str {
        match self {
            Self::OpenMpi | Self::Prrte => "--hostfile",
            Self::Mpich | Self::Intel => "-f",
        }
    }

    /// In a shell, the words that hand the variable on whose name is in `$name`.
    pub fn shell_words_for_name(self) -> &'static str {
        match self {
            Self::OpenMpi | Self::Prrte => r#"-x "$name""#,
            Self::Mpich | Self::Intel => r#"-genv "$name" "${!name}""#,
        }
    }

    /// Allows more ranks than Open MPI would start on this host.
    fn oversubscription(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &["--oversubscribe"],
            Self::Prrte => &["--map-by", ":OVERSUBSCRIBE"],
            Self::Mpich | Self::Intel => &[],
        }
    }

    /// mpirun's arguments. Those of the configuration come after ours, so that they can say
    /// otherwise.
    pub fn arguments(self, ranks: &Ranks<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        let is_open_mpi = matches!(self, Self::OpenMpi | Self::Prrte);
        if is_open_mpi && ranks.as_root {
            push(&["--allow-run-as-root"]);
        }
        // Open MPI offers one slot per core; what is counted here are hardware threads, of which a
        // core may have two.
        if ranks.count * 2 > ranks.cores {
            push(self.oversubscription());
        }
        push(self.unbound());
        if is_open_mpi {
            ranks.environment.iter().for_each(|name| push(&["-x", name]));
        } else if !ranks.environment.is_empty() {
            push(&["-genvlist", &ranks.environment.join(",")]);
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
        assert_eq!(Dialect::told_by("prterun (PRRTE) 3.0.1"), Some(Dialect::Prrte));
        assert_eq!(Dialect::told_by("mpirun (Open MPI) 5.0.8\n"), Some(Dialect::Prrte));
        assert_eq!(Dialect::told_by("mpirun (Open MPI) 10.1.0rc2\n"), Some(Dialect::Prrte));
        assert_eq!(
            Dialect::told_by("HYDRA build details:\n    Version: 4.0.2"),
            Some(Dialect::Mpich)
        );
        assert_eq!(
            Dialect::told_by("Intel(R) MPI Library for Linux* OS, Version 2021.9\nHYDRA"),
            Some(Dialect::Intel)
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
            environment: &["A", "B"].map(str::to_owned),
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
    fn open_mpi_5_maps_in_its_own_words() {
        assert_eq!(
            line(Dialect::Prrte, 5, false),
            "--map-by :OVERSUBSCRIBE --bind-to none -x A -x B --hostfile hosts -n 5 loract train"
        );
        assert_eq!(
            line(Dialect::Prrte, 4, true),
            "--allow-run-as-root ".to_owned() + &line(Dialect::OpenMpi, 4, false)
        );
    }

    #[test]
    fn hydra_is_told_in_its_own_words() {
        assert_eq!(
            line(Dialect::Mpich, 9, true),
            "-bind-to none -genvlist A,B --hostfile hosts -n 9 loract train"
        );
        assert_eq!(
            line(Dialect::Intel, 9, true),
            "-genv I_MPI_PIN off -genvlist A,B --hostfile hosts -n 9 loract train"
        );
    }
}
