//! Every environment variable this crate reads, and what it learns from them before MPI is up.

/// An environment variable and its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it says, in one line.
    pub meaning: &'static str,
}

macro_rules! registry {
    ($($name:ident: $meaning:literal,)*) => {
        $(#[doc = $meaning] pub const $name: Variable = Variable { name: stringify!($name), meaning: $meaning };)*
        /// Every variable, for a reference page.
        pub const ALL: &[Variable] = &[$($name),*];
    };
}

registry! {
    LORACT_CHECK_COLLECTIVES: "0 turns off the comparison of all ranks' calls before each collective; off if any rank turns it off",
    LORACT_NCCL_DEADLINE: "seconds within which the ranks must have met over NCCL",
    OMPI_COMM_WORLD_SIZE: "set by Open MPI's mpirun: the number of ranks",
    OMPI_COMM_WORLD_RANK: "set by Open MPI's mpirun: this rank",
    OMPI_COMM_WORLD_LOCAL_RANK: "set by Open MPI's mpirun: this rank among those of its host",
    OMPI_COMM_WORLD_LOCAL_SIZE: "set by Open MPI's mpirun: the number of ranks on this host",
    PMIX_RANK: "set by a PMIx launcher, such as srun --mpi=pmix: this rank",
    PMIX_NAMESPACE: "set by a PMIx launcher: the name of the job",
    PMI_RANK: "set by a PMI launcher, such as MPICH's mpiexec or srun --mpi=pmi2: this rank",
    PMI_SIZE: "set by a PMI launcher: the number of ranks",
    PMI_FD: "set by a PMI launcher: the descriptor over which ranks reach it",
    MPI_LOCALRANKID: "set by MPICH's mpiexec: this rank among those of its host",
    MPI_LOCALNRANKS: "set by MPICH's mpiexec: the number of ranks on this host",
    SLURM_PROCID: "set by Slurm: this task's number; a rank only together with PMI or PMIx",
    SLURM_NTASKS: "set by Slurm: the number of tasks",
    SLURM_LOCALID: "set by Slurm: this task's number on its host",
    SLURM_STEP_NUM_TASKS: "set by Slurm for what srun starts: the number of tasks of the step",
    PALS_RANKID: "set by PALS, the launcher of HPE Cray EX: this rank",
    RANK: "set by torchrun and Kubernetes operators: this process; only looked at to refuse processes that would train apart",
    WORLD_SIZE: "set by torchrun and Kubernetes operators: the number of processes; only looked at to refuse processes that would train apart",
    SLURM_NTASKS_PER_NODE: "set by Slurm where the job asked for it: the number of tasks on each host",
}

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Slurm's `srun` through PMI or PMIx.
    Slurm,
    /// Another launcher that speaks PMIx.
    Pmix,
    /// Another launcher that speaks PMI, such as MPICH's `mpiexec`.
    Pmi,
}

impl Launcher {
    /// The launcher in words.
    pub fn name(self) -> &'static str {
        match self {
            Launcher::OpenMpi => "Open MPI's mpirun",
            Launcher::Slurm => "Slurm's srun",
            Launcher::Pmix => "a PMIx launcher",
            Launcher::Pmi => "a PMI launcher",
        }
    }
}

/// What the environment says of this rank. Only MPI itself knows for certain; where a launcher does
/// not say, a field is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Who started this rank.
    pub launcher: Launcher,
    /// This rank.
    pub rank: Option<usize>,
    /// The number of ranks.
    pub world_size: Option<usize>,
    /// This rank among those of its host.
    pub local_rank: Option<usize>,
    /// The number of ranks on this host.
    pub local_size: Option<usize>,
}

impl Launch {
    /// Reads the environment through `lookup`.
    ///
    /// Open MPI comes first: under `mpirun` inside a Slurm job the variables of Slurm describe the
    /// daemons of `mpirun`, not the ranks. For the same reason Slurm's count only where PMI or PMIx
    /// says that `srun` started a rank: a batch script has them too.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Option<Launch> {
        let is_set = |variable: Variable| lookup(variable.name).is_some();
        let number = |variable: Variable| lookup(variable.name)?.trim().parse().ok();
        let speaks_pmix = is_set(PMIX_RANK) || is_set(PMIX_NAMESPACE);
        let speaks_pmi = is_set(PMI_RANK) || is_set(PMI_SIZE) || is_set(PMI_FD);
        if is_set(OMPI_COMM_WORLD_SIZE) {
            Some(Launch {
                launcher: Launcher::OpenMpi,
                rank: number(OMPI_COMM_WORLD_RANK),
                world_size: number(OMPI_COMM_WORLD_SIZE),
                local_rank: number(OMPI_COMM_WORLD_LOCAL_RANK),
                local_size: number(OMPI_COMM_WORLD_LOCAL_SIZE),
            })
        } else if is_set(SLURM_PROCID) && (speaks_pmix || speaks_pmi) {
            Some(Launch {
                launcher: Launcher::Slurm,
                rank: number(PMIX_RANK).or(number(PMI_RANK)).or(number(SLURM_PROCID)),
                world_size: number(PMI_SIZE).or(number(SLURM_NTASKS)),
                local_rank: number(SLURM_LOCALID),
                local_size: number(SLURM_NTASKS_PER_NODE),
            })
        } else if speaks_pmix {
            let (launcher, rank) = (Launcher::Pmix, number(PMIX_RANK));
            Some(Launch { launcher, rank, world_size: None, local_rank: None, local_size: None })
        } else if speaks_pmi {
            Some(Launch {
                launcher: Launcher::Pmi,
                rank: number(PMI_RANK),
                world_size: number(PMI_SIZE),
                local_rank: number(MPI_LOCALRANKID),
                local_size: number(MPI_LOCALNRANKS),
            })
        } else {
            None
        }
    }
}

/// Which variable says that this process is one of several, where MPI has found `world_size` ranks:
/// its name, its value, and what to do. `None` where they agree.
pub(crate) fn contradiction(
    world_size: usize,
    lookup: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, usize, &'static str)> {
    const OTHER_MPI: &str = "start the ranks with the mpirun of the MPI that the program was built with; `loract doctor` names it";
    const NO_PMI: &str = "start them with srun --mpi=pmix (or --mpi=pmi2), or with mpirun";
    const NO_MPI: &str = "start them with mpirun, srun or `loract launch`, or unset the variable";
    let number = |variable: Variable| lookup(variable.name)?.trim().parse::<usize>().ok();
    let found = |variable: Variable, remedy, is_wrong: &dyn Fn(usize) -> bool| {
        number(variable)
            .filter(|value| is_wrong(*value))
            .map(|value| (variable.name, value, remedy))
    };
    let differs = |value| value != world_size;
    let of_mpi = [OMPI_COMM_WORLD_SIZE, PMI_SIZE].into_iter().find(|size| number(*size).is_some());
    if let Some(size) = of_mpi {
        return found(size, OTHER_MPI, &differs);
    }
    if world_size > 1 {
        return None;
    }
    let several = |size| size > 1;
    let not_first = |rank| rank > 0;
    // Slurm's describe a step, which only srun makes: a batch script has none.
    let in_step = number(SLURM_STEP_NUM_TASKS).is_some();
    found(SLURM_STEP_NUM_TASKS, NO_PMI, &several)
        .or_else(|| found(SLURM_PROCID, NO_PMI, &|rank| in_step && rank > 0))
        .or_else(|| found(PALS_RANKID, OTHER_MPI, &not_first))
        .or_else(|| found(WORLD_SIZE, NO_MPI, &several))
        .or_else(|| found(RANK, NO_MPI, &not_first))
}

/// How MPI started this process; `None` if it was started by hand, alone.
pub fn launched_by_mpi() -> Option<Launch> {
    Launch::from_lookup(|name| std::env::var(name).ok())
}

/// This rank, if the launcher says so before MPI is up.
pub fn rank_hint() -> Option<usize> {
    launched_by_mpi()?.rank
}

/// This rank among those of its host, if the launcher says so: the number of the GPU it should
/// take.
pub fn local_rank_hint() -> Option<usize> {
    launched_by_mpi()?.local_rank
}

/// The number of ranks on this host, if the launcher says so: cores and memory are shared among
/// them.
pub fn local_size_hint() -> Option<usize> {
    launched_by_mpi()?.local_size
}

/// Whether this process wants collectives checked ([`LORACT_CHECK_COLLECTIVES`]).
#[cfg(feature = "mpi")]
pub(crate) fn check_collectives() -> bool {
    !std::env::var(LORACT_CHECK_COLLECTIVES.name).is_ok_and(|value| says_no(&value))
}

/// How long ranks wait for each other when they meet over NCCL ([`LORACT_NCCL_DEADLINE`]).
#[cfg(feature = "mpi")]
pub(crate) fn nccl_deadline() -> std::time::Duration {
    let said =
        std::env::var(LORACT_NCCL_DEADLINE.name).ok().and_then(|value| value.trim().parse().ok());
    std::time::Duration::from_secs(said.unwrap_or(180))
}

#[cfg(feature = "mpi")]
fn says_no(value: &str) -> bool {
    ["0", "off", "no", "false"].contains(&value.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn launch(variables: &[(Variable, &str)]) -> Option<Launch> {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(variable, _)| variable.name == name)
                .map(|(_, value)| value.to_string())
        };
        Launch::from_lookup(lookup)
    }

    #[test]
    fn a_process_started_by_hand_was_launched_by_nobody() {
        assert_eq!(launch(&[]), None);
    }

    #[test]
    fn a_batch_script_of_slurm_is_not_a_rank() {
        assert_eq!(launch(&[(SLURM_PROCID, "0"), (SLURM_NTASKS, "4"), (SLURM_LOCALID, "0")]), None);
    }

    #[test]
    fn open_mpi_inside_slurm_is_open_mpi() {
        let found = launch(&[
            (SLURM_PROCID, "0"),
            (SLURM_NTASKS, "2"),
            (PMIX_RANK, "3"),
            (OMPI_COMM_WORLD_RANK, "3"),
            (OMPI_COMM_WORLD_SIZE, "4"),
            (OMPI_COMM_WORLD_LOCAL_RANK, "1"),
            (OMPI_COMM_WORLD_LOCAL_SIZE, "2"),
        ]);
        let expected = Launch {
            launcher: Launcher::OpenMpi,
            rank: Some(3),
            world_size: Some(4),
            local_rank: Some(1),
            local_size: Some(2),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn srun_is_known_by_pmix_or_pmi() {
        let pmix = launch(&[
            (PMIX_RANK, "5"),
            (SLURM_PROCID, "5"),
            (SLURM_NTASKS, "8"),
            (SLURM_LOCALID, "1"),
        ])
        .unwrap();
        assert_eq!(
            (pmix.launcher, pmix.rank, pmix.world_size),
            (Launcher::Slurm, Some(5), Some(8))
        );
        assert_eq!((pmix.local_rank, pmix.local_size), (Some(1), None));
        let pmi = launch(&[
            (PMI_FD, "9"),
            (SLURM_PROCID, "2"),
            (SLURM_NTASKS, "3"),
            (SLURM_NTASKS_PER_NODE, "3"),
        ])
        .unwrap();
        assert_eq!(
            (pmi.launcher, pmi.rank, pmi.world_size, pmi.local_size),
            (Launcher::Slurm, Some(2), Some(3), Some(3))
        );
    }

    #[test]
    fn mpich_says_everything() {
        let found = launch(&[
            (PMI_RANK, "1"),
            (PMI_SIZE, "2"),
            (MPI_LOCALRANKID, "0"),
            (MPI_LOCALNRANKS, "1"),
        ])
        .unwrap();
        let expected = Launch {
            launcher: Launcher::Pmi,
            rank: Some(1),
            world_size: Some(2),
            local_rank: Some(0),
            local_size: Some(1),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_rank_that_mpi_takes_for_alone_is_found_out() {
        let found = |world_size, variables: &[(&str, &str)]| {
            let lookup = |name: &str| {
                let mut all = variables.iter();
                all.find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
            };
            contradiction(world_size, lookup).map(|(name, value, _)| (name, value))
        };
        assert_eq!(found(1, &[("PMI_SIZE", "2"), ("PMI_RANK", "1")]), Some(("PMI_SIZE", 2)));
        assert_eq!(found(4, &[("OMPI_COMM_WORLD_SIZE", "2")]), Some(("OMPI_COMM_WORLD_SIZE", 2)));
        let step = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(found(1, &step), Some(("SLURM_STEP_NUM_TASKS", 2)));
        assert_eq!(found(1, &[("RANK", "1")]), Some(("RANK", 1)));
        assert_eq!(found(1, &[("WORLD_SIZE", "8"), ("RANK", "0")]), Some(("WORLD_SIZE", 8)));
        assert_eq!(found(1, &[("PALS_RANKID", "3")]), Some(("PALS_RANKID", 3)));
        // mpirun's daemons are the tasks of a step, and a batch script has numbers without a step.
        let daemons = [("OMPI_COMM_WORLD_SIZE", "4"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(found(4, &daemons), None);
        assert_eq!(found(4, &[("WORLD_SIZE", "2"), ("SLURM_STEP_NUM_TASKS", "2")]), None);
        assert_eq!(found(1, &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), None);
        assert_eq!(found(1, &[("WORLD_SIZE", "1"), ("RANK", "0")]), None);
    }

    #[test]
    fn a_number_that_is_none_is_no_hint() {
        let found =
            launch(&[(OMPI_COMM_WORLD_SIZE, "two"), (OMPI_COMM_WORLD_RANK, " 1 ")]).unwrap();
        assert_eq!((found.world_size, found.rank), (None, Some(1)));
    }

    #[test]
    fn every_variable_stands_once_in_the_registry_with_a_meaning() {
        for (index, variable) in ALL.iter().enumerate() {
            assert!(!variable.meaning.is_empty());
            assert!(
                ALL[..index].iter().all(|earlier| earlier.name != variable.name),
                "{} is there twice",
                variable.name
            );
        }
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn checks_are_turned_off_by_the_usual_words() {
        assert!(["0", "off", "No", " false "].into_iter().all(says_no));
        assert!(!["1", "on", "yes", ""].into_iter().any(says_no));
    }
}
