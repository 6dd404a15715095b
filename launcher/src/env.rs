//! Every environment variable that the workspace reads or sets, with its meaning: the code that
//! hands variables on to the ranks and the reference page come from this list.

use crate::kubeflow;
use collective::env::{LORACT_CHECK_COLLECTIVES, LORACT_NCCL_DEADLINE};
use std::{collections::BTreeSet, fmt::Write};

/// The levels of the ranks' logs, in the syntax of `tracing`'s `EnvFilter`.
pub const LORACT_LOG: &str = "LORACT_LOG";

/// An environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Who reads it.
    reader: Reader,
    /// What it means, in one line.
    meaning: &'static str,
    /// What holds where it is not set.
    default: &'static str,
    /// Whether `launch` hands it on to every rank, on other hosts too.
    is_handed_on: bool,
}

/// Who reads a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Ranks,
    Program,
    Libraries,
    Tests,
    Build,
}

impl Reader {
    const ALL: [Self; 5] = [Self::Ranks, Self::Program, Self::Libraries, Self::Tests, Self::Build];

    fn title(self) -> &'static str {
        match self {
            Self::Ranks => "Read by the ranks",
            Self::Program => "Read by the program",
            Self::Libraries => "Read by libraries",
            Self::Tests => "Read by tests and benchmarks",
            Self::Build => "Read by the build",
        }
    }
}

const fn variable(
    name: &'static str,
    reader: Reader,
    meaning: &'static str,
    default: &'static str,
) -> Variable {
    Variable { name, reader, meaning, default, is_handed_on: false }
}

/// One that `launch` hands on.
const fn handed(
    name: &'static str,
    reader: Reader,
    meaning: &'static str,
    default: &'static str,
) -> Variable {
    Variable { is_handed_on: true, ..variable(name, reader, meaning, default) }
}

use Reader::{Build, Libraries, Program, Ranks, Tests};

/// The variables, but for those of MPI's launchers, which `collective` knows.
const VARIABLES: &[Variable] = &[
    handed(LORACT_LOG, Ranks, "the levels of the ranks' logs: debug, or info,reduce=trace", "info"),
    handed(LORACT_CHECK_COLLECTIVES.name, Ranks, LORACT_CHECK_COLLECTIVES.meaning, "1"),
    handed(LORACT_NCCL_DEADLINE.name, Ranks, LORACT_NCCL_DEADLINE.meaning, "180"),
    handed(
        setup::INJECT_FAULT_VARIABLE,
        Ranks,
        "a fault for tests, such as panic:1:3: rank 1 panics in step 3",
        "no fault",
    ),
    handed("RUST_BACKTRACE", Ranks, "1 adds the stack to the message of a panic", "0"),
    variable(
        "OMPI_MCA_btl_tcp_links",
        Ranks,
        "TCP connections between two ranks of Open MPI; set by ranks where it is not",
        "2",
    ),
    variable(
        "OMPI_MCA_mpi_yield_when_idle",
        Ranks,
        "whether a rank that waits yields its core; set by ranks where it is not",
        "1",
    ),
    handed(
        "LD_LIBRARY_PATH",
        Libraries,
        "directories of shared libraries: libtorch, NCCL, CUDA",
        "the system's",
    ),
    handed("CUDA_VISIBLE_DEVICES", Libraries, "the GPUs that a rank may use", "all"),
    handed("NCCL_DEBUG", Libraries, "the level of NCCL's log", "none"),
    handed(
        "NCCL_SOCKET_IFNAME",
        Libraries,
        "the network interfaces that NCCL uses",
        "chosen by NCCL",
    ),
    handed("NCCL_IB_HCA", Libraries, "the InfiniBand adapters that NCCL uses", "chosen by NCCL"),
    handed("NCCL_IB_DISABLE", Libraries, "1 keeps NCCL from InfiniBand", "0"),
    variable(
        kubeflow::URL,
        Program,
        "set by Kubeflow Trainer: where the progress of a run is posted",
        "progress is not posted",
    ),
    variable(
        kubeflow::TOKEN,
        Program,
        "set by Kubeflow Trainer: the file of the token that is posted with the progress",
        "none",
    ),
    variable(
        kubeflow::CA_CERTIFICATE,
        Program,
        "set by Kubeflow Trainer: the file of the certificate that is trusted when progress is posted",
        "those of the system",
    ),
    variable(
        "NCCL_HOSTID",
        Ranks,
        "the name of this host for NCCL; ranks with different ones may share a GPU, which tests use",
        "the host's name",
    ),
    variable(
        "OMP_NUM_THREADS",
        Program,
        "CPU threads of OpenMP, which `loract doctor` compares with the cores",
        "libtorch's",
    ),
    variable("NO_COLOR", Program, "any value turns colours off", "colours on a terminal"),
    variable("CLICOLOR_FORCE", Program, "1 turns colours on where the output is no terminal", "0"),
    variable(
        "LORACT_BLESS",
        Tests,
        "1 rewrites generated files, such as the pages of docs/reference, instead of comparing them",
        "0",
    ),
    variable(
        "LORACT_TEST_DEVICE",
        Tests,
        "cuda runs the tests of kernels and layers on a GPU",
        "cpu",
    ),
    variable(
        "LORACT_ASSERT_TIMES",
        Tests,
        "1 makes tests of deadlines fail when the machine is slow",
        "0",
    ),
    variable(
        "LORACT_TEST_LINKS",
        Tests,
        "the value of OMPI_MCA_btl_tcp_links that the ranks of a test expect",
        "2",
    ),
    variable(
        "LORACT_TEST_OPEN_MPI",
        Tests,
        "the directory of another Open MPI, which starts the ranks of jobs for Kubernetes",
        "the one of PATH",
    ),
    variable(
        "LORACT_REPETITIONS",
        Tests,
        "how many times ci/flaky repeats a test",
        "as the script says",
    ),
    variable(
        "LORACT_PEERS",
        Tests,
        "the directory of the tools that ci compares with",
        ".deps/peers",
    ),
    variable("LORACT", Tests, "the program that ci/bench measures", "target/release/loract"),
    variable(
        "JINJA_REFERENCE",
        Tests,
        "a file of templates that jinja2 has rendered, to compare with",
        "not compared",
    ),
    variable("PROPTEST_CASES", Tests, "cases of each property test", "as the test says"),
    variable("LIBTORCH", Build, "the directory of libtorch 2.11.0", "none"),
    variable(
        "DEP_TCH_LIBTORCH_LIB",
        Build,
        "set by cargo: the directory of libtorch's libraries",
        "none",
    ),
];

/// All variables.
fn all() -> Vec<Variable> {
    let known = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
    let of_launchers = collective::env::ALL.iter().filter(|variable| !known(variable.name));
    let of_launchers =
        of_launchers.map(|found| variable(found.name, Ranks, found.meaning, "set by the launcher"));
    VARIABLES.iter().copied().chain(of_launchers).collect()
}

/// What the names of the variables of the networks' libraries begin with: NCCL, UCX and libfabric.
/// All are handed on but those that stand in the registry and are not.
const FAMILIES: [&str; 3] = ["NCCL_", "UCX_", "FI_"];

/// Whether `launch` hands the variable `name` on to every rank.
fn is_handed_on(name: &str) -> bool {
    match VARIABLES.iter().find(|variable| variable.name == name) {
        Some(variable) => variable.is_handed_on,
        None => FAMILIES.iter().any(|family| name.starts_with(family)),
    }
}

/// The variables that `launch` hands on to the ranks: those that are set here, and `further`.
pub fn handed_on<'a>(further: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let set: BTreeSet<String> = set.filter(|name| is_handed_on(name)).collect();
    set.into_iter()
        .chain(further.into_iter().cloned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The same for a job file, as the two patterns of a shell's `case`: what is not handed on though
/// the other pattern has it, and what is. A scheduler gives each host its own GPUs, so that
/// `CUDA_VISIBLE_DEVICES` is handed on only where it is among `further`.
pub fn shell_patterns<'a>(further: impl IntoIterator<Item = &'a str>) -> (String, String) {
    let further: BTreeSet<&str> = further.into_iter().chain(["OMP_NUM_THREADS"]).collect();
    let of_a_host = |name: &str| !is_handed_on(name) || name == "CUDA_VISIBLE_DEVICES";
    let in_family = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let names = VARIABLES.iter().map(|variable| variable.name);
    let known = names.clone().filter(|name| !of_a_host(name) && !in_family(name));
    let left_out =
        names.filter(|name| in_family(name) && of_a_host(name) && !further.contains(name));
    let families = FAMILIES.map(|family| format!("{family}*"));
    let handed = known.chain(further.iter().copied()).map(str::to_owned).chain(families);
    let pattern = |names: Vec<String>| names.join(" | ");
    (pattern(left_out.map(str::to_owned).collect()), pattern(handed.collect()))
}

/// The page that describes every variable, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for reader in Reader::ALL {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n| variable | meaning | default | handed on |\n|---|---|---|---|\n",
            reader.title()
        );
        for found in all().iter().filter(|variable| variable.reader == reader) {
            let handed_on = if found.is_handed_on { "yes" } else { "" };
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {handed_on} |",
                found.name, found.meaning, found.default
            );
        }
    }
    page
}

const INTRODUCTION: &str = "\
# Environment variables

<!-- Generated from launcher/src/env.rs by `LORACT_BLESS=1 cargo test --release -p loract --test reference`. Do not edit. -->

`loract launch` and job files hand the variables marked below on to every rank, on other hosts too,
where they are set, and all others whose names begin with `NCCL_`, `UCX_` or `FI_`, but for
`NCCL_HOSTID`. Set further ones for all ranks in `[cluster] environment`. A job file leaves
`CUDA_VISIBLE_DEVICES` to the scheduler, which gives each host its own.
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    /// The names that begin with `LORACT_` in the files of a folder of the repository, but for the
    /// list of former names.
    fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for entry in entries.filter(|path| !path.ends_with("tests/glossary.rs")) {
            if entry.is_dir() {
                names_in(&entry, names);
            } else if let Ok(text) = std::fs::read_to_string(&entry) {
                let starts = text.match_indices("LORACT_").map(|(start, _)| &text[start..]);
                let is_name = |letter: char| {
                    letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'
                };
                names.extend(starts.map(|rest| {
                    rest.chars().take_while(|letter| is_name(*letter)).collect::<String>()
                }));
            }
        }
    }

    #[test]
    fn every_variable_of_ours_in_the_repository_stands_here_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut used = BTreeSet::new();
        for folder in ["crates", "launcher/src", "ci", "tests"] {
            names_in(&root.join(folder), &mut used);
        }
        used.remove("LORACT_");
        let known: Vec<&str> = all().iter().map(|variable| variable.name).collect();
        let unknown: Vec<&String> =
            used.iter().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not in the registry");
        assert_eq!(
            known.iter().collect::<BTreeSet<_>>().len(),
            known.len(),
            "a variable is there twice"
        );
        let unused: Vec<_> = known
            .iter()
            .filter(|name| name.starts_with("LORACT_") && !used.contains(**name))
            .collect();
        assert!(unused.is_empty(), "{unused:?} are read by nobody");
    }

    #[test]
    fn settings_of_networks_are_handed_on_but_for_a_hosts_own() {
        for name in ["NCCL_IB_GID_INDEX", "UCX_TLS", "FI_PROVIDER", "LORACT_LOG", "NCCL_DEBUG"] {
            assert!(is_handed_on(name), "{name}");
        }
        for name in ["NCCL_HOSTID", "PATH", "FIRST", "UCXTLS", "OMP_NUM_THREADS"] {
            assert!(!is_handed_on(name), "{name}");
        }
        let further = ["MINE".to_owned()];
        assert!(handed_on(&further).contains(&further[0]));
        let (left_out, handed) = shell_patterns(["MINE"]);
        assert_eq!(left_out, "NCCL_HOSTID");
        for name in ["MINE", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "LORACT_LOG", "FI_*"] {
            assert!(handed.split(" | ").any(|pattern| pattern == name), "{name}: {handed}");
        }
        assert!(!handed.contains("CUDA_VISIBLE_DEVICES"));
        assert!(shell_patterns(["CUDA_VISIBLE_DEVICES"]).1.contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn what_ranks_of_ours_read_is_handed_on() {
        let mut ours = all().into_iter().filter(|variable| {
            variable.reader == Reader::Ranks && variable.name.starts_with("LORACT_")
        });
        assert!(ours.all(|variable| variable.is_handed_on));
    }
}
