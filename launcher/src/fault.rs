//! Who made a job fail, told from what mpirun and the ranks wrote.
//!
//! Four kinds of lines are understood: a rank's own last words (`rank 1 (host node2): …`, printed
//! by the crate `collective`), its words of another rank (`rank 0 (host node1): rank 1 (host node2)
//! has …`), Open MPI's notices (`mpirun` of version 4, `prterun` of version 5), and those of
//! MPICH's `hydra`.

use crate::{failure::one_line, logs};

/// What became of a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It was killed by a signal.
    Signal(i32),
    /// It ended with an error or a panic, in its own words.
    Words(String),
    /// It was named by another rank, in these words.
    Named(String),
    /// It refused its input, in its own words: every rank would.
    Input(String),
    /// It called `MPI_Abort` with this code, without a word.
    Abort(i32),
    /// It exited with this code, without a word.
    Exit(i32),
}

/// The rank that made a job fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number, where somebody said so.
    pub rank: Option<usize>,
    /// Its host, where somebody said so.
    pub host: Option<String>,
    /// Its process, where somebody said so.
    pub pid: Option<u32>,
    /// What became of it.
    pub cause: Cause,
    /// What it was last heard to do, where another rank said so: `at step 12, in all_reduce
    /// (collective 345)`.
    pub last: Option<String>,
}

/// What comes before the last that was heard of a rank, in the words of another.
const LAST_HEARD: &str = "; last heard of ";

/// What ranks say before the reason for which they refuse their input.
pub const INPUT_ERROR: &str = "input error: ";

/// Reads the lines of a job and keeps what tells the culprit.
#[derive(Debug, Default)]
pub struct Reader {
    faults: Vec<(Weight, Fault)>,
    context: Context,
    /// The first lines that say something, for a failure that nobody explains.
    head: Vec<String>,
}

/// How much a fault explains. A rank that loses its partner complains, but is not the culprit: the
/// partner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// An error that the rank logged and survived.
    Logged,
    /// A failed conversation with another rank.
    Complaint,
    /// An exit code without a word.
    Exit,
    /// A signal, an error, a panic.
    Cause,
}

/// Notices of several lines: what their first lines said.
#[derive(Debug, Default)]
struct Context {
    rank: Option<usize>,
    host: Option<String>,
    pid: Option<u32>,
    aborting: Option<usize>,
}

/// Lines that are shown for a failure without an explanation. mpirun prints the fault first, then
/// lengthy advice.
const HEAD: usize = 3;

impl Reader {
    /// Takes a line. True if it is the first sign that the job is failing.
    pub fn line(&mut self, line: &str) -> bool {
        let line = line.trim();
        if self.head.len() < HEAD && is_meaningful(line) {
            self.head.push(line.to_owned());
        }
        let failing = self.is_failing();
        if let Some(found) = self.understand(line) {
            self.faults.push(found);
        }
        !failing && self.is_failing()
    }

    /// Whether the job cannot succeed any more.
    pub fn is_failing(&self) -> bool {
        self.faults.iter().any(|(weight, _)| *weight > Weight::Logged)
    }

    /// The culprit: the first of those that explain most. Whom another rank has named, a second
    /// witness may explain better.
    pub fn culprit(&self) -> Option<Fault> {
        let most = self.faults.iter().map(|(weight, _)| *weight).max()?;
        let (_, first) = self.faults.iter().find(|(weight, _)| *weight == most)?;
        let same_rank = || {
            self.faults.iter().filter(|(_, fault)| fault.rank.is_some() && fault.rank == first.rank)
        };
        let is_witness = |(weight, fault): &&(Weight, Fault)| {
            *weight > Weight::Complaint && !matches!(fault.cause, Cause::Named(_))
        };
        let mut culprit = first.clone();
        if let (Cause::Named(words), Some((_, better))) =
            (&first.cause, same_rank().find(is_witness))
        {
            culprit = Fault { host: first.host.clone(), last: last_heard(words), ..better.clone() };
        } else if !matches!(first.cause, Cause::Named(_)) {
            let named = same_rank().find_map(|(_, fault)| {
                if let Cause::Named(words) = &fault.cause { last_heard(words) } else { None }
            });
            culprit.last = named;
        }
        Some(culprit)
    }

    /// The first lines that say something, as one.
    pub fn first_words(&self) -> String {
        one_line(&self.head.join("\n"))
    }

    fn understand(&mut self, line: &str) -> Option<(Weight, Fault)> {
        own_words(line)
            .or_else(|| noticed(line))
            .or_else(|| self.open_mpi_exit(line))
            .or_else(|| self.hydra(line))
    }

    /// Open MPI: `MPI_ABORT was invoked on rank 1 …` and `with errorcode 3.`; `Process name:
    /// [[8443,1],1]` and `Exit code:    3`.
    fn open_mpi_exit(&mut self, line: &str) -> Option<(Weight, Fault)> {
        if let Some(rest) = line.strip_prefix("MPI_ABORT was invoked on rank ") {
            self.context.aborting = leading_number(rest);
            return None;
        }
        if let Some((_, code)) = line.split_once("with errorcode ")
            && let Some(rank) = self.context.aborting.take()
        {
            let cause = Cause::Abort(leading_number(code)?);
            return Some((Weight::Exit, Fault::of_rank(rank, None, cause)));
        }
        if let Some(name) = line.strip_prefix("Process name:") {
            self.context.rank = name
                .trim()
                .trim_end_matches(']')
                .rsplit_once(',')
                .and_then(|(_, rank)| rank.trim().parse().ok());
            return None;
        }
        if let Some(code) = line.strip_prefix("Exit code:")
            && let Some(rank) = self.context.rank.take()
        {
            let cause = Cause::Exit(code.trim().parse().ok()?);
            return Some((Weight::Exit, Fault::of_rank(rank, None, cause)));
        }
        None
    }

    /// hydra: `=   PID 1234 RUNNING AT node2` (`RANK 1 PID …` in Intel MPI), then `=   EXIT CODE:
    /// 9` or `KILLED BY SIGNAL: 9`, and `YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed
    /// (signal 9)`.
    fn hydra(&mut self, line: &str) -> Option<(Weight, Fault)> {
        if let Some((_, rest)) = line.split_once("application called MPI_Abort(MPI_COMM_WORLD, ") {
            let rank = rest.rsplit_once("process ").and_then(|(_, rank)| leading_number(rank));
            let cause = Cause::Abort(leading_number(rest)?);
            return Some((Weight::Exit, Fault { rank, host: None, pid: None, cause, last: None }));
        }
        if let Some((_, rest)) = line.split_once("TERMINATED WITH THE EXIT STRING:") {
            let signal =
                rest.split_once("(signal ").and_then(|(_, number)| leading_number(number))?;
            return Some((Weight::Cause, self.of_context(Cause::Signal(signal))));
        }
        let line = line.strip_prefix('=')?.trim();
        if let Some((process, host)) = line.split_once(" RUNNING AT ") {
            let after = |word: &str| process.split_once(word).map(|(_, rest)| rest.trim_start());
            self.context.rank = after("RANK ").and_then(leading_number);
            self.context.pid = after("PID ").and_then(leading_number);
            self.context.host = Some(host.trim().to_owned());
            return None;
        }
        if let Some(signal) = line.strip_prefix("KILLED BY SIGNAL:") {
            let signal = leading_number(signal.trim())?;
            return Some((Weight::Cause, self.of_context(Cause::Signal(signal))));
        }
        let code = leading_number(line.strip_prefix("EXIT CODE:")?.trim())?;
        Some((Weight::Exit, self.of_context(Cause::Exit(code))))
    }

    fn of_context(&self, cause: Cause) -> Fault {
        Fault {
            rank: self.context.rank,
            host: self.context.host.clone(),
            pid: self.context.pid,
            cause,
            last: None,
        }
    }
}

/// `rank 1 (host node2): message` and `rank 1 (host node2) panicked: message`; and `rank 0 (host
/// node1): rank 1 (host node2) has …`.
fn own_words(line: &str) -> Option<(Weight, Fault)> {
    let (rank, host, words) = rank_and_host(line)?;
    let words = words.strip_prefix(':').unwrap_or(words).trim();
    if let Some((named, its_host, words)) = rank_and_host(words) {
        return Some((
            Weight::Cause,
            Fault::of_rank(named, Some(its_host), Cause::Named(words.trim().to_owned())),
        ));
    }
    let (weight, cause) = if let Some(logged) = words.strip_prefix(logs::LOGGED) {
        (Weight::Logged, Cause::Words(logged.trim().to_owned()))
    } else if let Some(message) = words.strip_prefix(INPUT_ERROR) {
        (Weight::Cause, Cause::Input(message.to_owned()))
    } else if words.contains("MPI failed in ") {
        (Weight::Complaint, Cause::Words(words.to_owned()))
    } else {
        (Weight::Cause, Cause::Words(words.to_owned()))
    };
    Some((weight, Fault::of_rank(rank, Some(host), cause)))
}

/// The fault that a rank has told in these words, though they were not heard.
pub fn told(rank: usize, host: &str, words: &str) -> Option<Fault> {
    own_words(&format!("rank {rank} (host {host}): {words}")).map(|(_, fault)| fault)
}

/// `rank 1 (host node2)`, and what follows.
fn rank_and_host(text: &str) -> Option<(usize, &str, &str)> {
    let (rank, rest) = text.strip_prefix("rank ")?.split_once(" (host ")?;
    let (host, rest) = rest.split_once(')')?;
    Some((rank.parse().ok()?, host, rest))
}

/// What a rank was last heard to do, in another rank's words.
fn last_heard(words: &str) -> Option<String> {
    let (_, last) = words.split_once(LAST_HEARD)?;
    Some(last.split(';').next().unwrap_or(last).to_owned())
}

/// Open MPI: `mpirun noticed that process rank 1 with PID 99 on node node2 exited on signal 9
/// (Killed).`
fn noticed(line: &str) -> Option<(Weight, Fault)> {
    let (_, rest) = line.split_once(" noticed that process rank ")?;
    let (rank, rest) = rest.split_once(" with PID ")?;
    let (pid, rest) = rest.split_once(" on node ")?;
    let (host, signal) = rest.split_once(" exited on signal ")?;
    // mpirun says 0 where it has forgotten the process.
    let pid = pid.parse().ok().filter(|pid| *pid > 0);
    let cause = Cause::Signal(leading_number(signal)?);
    Some((
        Weight::Cause,
        Fault { rank: rank.parse().ok(), host: Some(host.to_owned()), pid, cause, last: None },
    ))
}

/// The number at the beginning of `text`.
fn leading_number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// Neither empty nor drawn.
fn is_meaningful(line: &str) -> bool {
    line.chars().any(char::is_alphanumeric)
}

impl Fault {
    fn of_rank(rank: usize, host: Option<&str>, cause: Cause) -> Self {
        Self { rank: Some(rank), host: host.map(str::to_owned), pid: None, cause, last: None }
    }

    /// The failure in one line: `rank 1 on host node2 was killed by signal 9 (SIGKILL) at step 12`.
    ///
    /// `step` is the step the run was in, 0 before the first.
    pub fn sentence(&self, step: u64) -> String {
        let when = moment(step);
        let rank = self.rank.map_or_else(|| "a rank".to_owned(), |rank| format!("rank {rank}"));
        let host = self.host.as_ref().map_or_else(String::new, |host| format!(" on host {host}"));
        let sentence = match &self.cause {
            Cause::Named(words) => format!("{rank}{host} {words}"),
            Cause::Signal(signal) => {
                format!("{rank}{host} was killed by {} {when}", signal_name(*signal))
            }
            Cause::Words(words) => format!("{rank}{host} failed {when}: {words}"),
            Cause::Input(message) => message.clone(),
            Cause::Abort(code) => format!("{rank}{host} called MPI_Abort({code}) {when}"),
            Cause::Exit(code) => format!("{rank}{host} exited with code {code} {when}"),
        };
        sentence
            + &self.last.as_ref().map_or_else(String::new, |last| format!("{LAST_HEARD}{last}"))
    }
}

/// `at step 12`; `step` is the step the run was in, 0 before the first is done.
pub fn moment(step: u64) -> String {
    if step == 0 { "before the first step was done".to_owned() } else { format!("at step {step}") }
}

/// `signal 9 (SIGKILL)`.
pub fn signal_name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => format!("signal {signal} ({name})"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(output: &str) -> Reader {
        let mut reader = Reader::default();
        for line in output.lines() {
            reader.line(line);
        }
        reader
    }

    fn sentence(output: &str) -> String {
        read(output).culprit().unwrap().sentence(12)
    }

    const KILLED: &str =
        "--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpirun noticed that process rank 1 with PID 0 on node vm exited on signal 9 (Killed).
--------------------------------------------------------------------------";

    #[test]
    fn open_mpi_names_a_killed_rank() {
        assert_eq!(
            sentence(KILLED),
            "rank 1 on host vm was killed by signal 9 (SIGKILL) at step 12"
        );
        let prte = "prterun noticed that process rank 3 with PID 812 on node n2 exited on\nsignal 11 (Segmentation fault).";
        assert!(read(prte).culprit().is_none(), "a wrapped notice is not guessed at");
        let prte = "prterun noticed that process rank 3 with PID 812 on node n2 exited on signal 11 (Segmentation fault).";
        let reader = read(prte);
        assert_eq!(reader.culprit().unwrap().pid, Some(812));
        assert_eq!(
            reader.culprit().unwrap().sentence(0),
            "rank 3 on host n2 was killed by signal 11 (SIGSEGV) before the first step was done"
        );
    }

    #[test]
    fn open_mpi_names_a_rank_that_exits() {
        let output =
            "mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[8443,1],1]
  Exit code:    3";
        assert_eq!(sentence(output), "rank 1 exited with code 3 at step 12");
        let prte = "   Process name: [prterun-vm-812@1,2]\n   Exit code:    4";
        assert_eq!(sentence(prte), "rank 2 exited with code 4 at step 12");
    }

    #[test]
    fn open_mpi_names_a_rank_that_aborts() {
        let output = "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\nwith errorcode 7.\n\n\
            NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.";
        assert_eq!(sentence(output), "rank 1 called MPI_Abort(7) at step 12");
    }

    #[test]
    fn a_rank_speaks_for_itself() {
        let output = "rank 1 (host node2) panicked: index out of bounds at src/x.rs:3\n\
            MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\nwith errorcode 101.";
        assert_eq!(
            sentence(output),
            "rank 1 on host node2 failed at step 12: panicked: index out of bounds at src/x.rs:3"
        );
        assert_eq!(
            sentence("rank 0 (host a): the loss is NaN"),
            "rank 0 on host a failed at step 12: the loss is NaN"
        );
    }

    const DEATH: &str = "rank 0 (host vm): rank 1 (host vm) has ended without a word; last heard of at step 11, in all_gather (collective 30)";

    #[test]
    fn a_rank_that_another_names_is_the_culprit() {
        let silent = "rank 0 (host a): rank 3 (host b) has not been heard of for 54 s; last heard of at step 12, in barrier (collective 9); \
            its host is down\nMPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD\nwith errorcode 1.";
        assert_eq!(
            sentence(silent),
            "rank 3 on host b has not been heard of for 54 s; last heard of at step 12, in barrier (collective 9); its host is down"
        );
        assert_eq!(
            sentence("rank 0 (host a): rank 0: MPI failed in barrier: x").matches("rank 0").count(),
            2,
            "words about itself"
        );
    }

    #[test]
    fn whom_another_names_mpirun_may_know_better() {
        let with_last = "; last heard of at step 11, in all_gather (collective 30)";
        let killed =
            format!("rank 1 on host vm was killed by signal 9 (SIGKILL) at step 12{with_last}");
        assert_eq!(sentence(&format!("{DEATH}\n{KILLED}")), killed);
        assert_eq!(sentence(&format!("{KILLED}\n{DEATH}")), killed);
        let exit = "Process name: [[8443,1],1]\nExit code:    3";
        assert_eq!(
            sentence(&format!("{DEATH}\n{exit}")),
            format!("rank 1 on host vm exited with code 3 at step 12{with_last}")
        );
        let panicked = "rank 1 (host vm) panicked: no memory";
        let says = format!("rank 1 on host vm failed at step 12: panicked: no memory{with_last}");
        assert_eq!(
            [sentence(&format!("{panicked}\n{DEATH}")), sentence(&format!("{DEATH}\n{panicked}"))],
            [says.clone(), says]
        );
        let other = "Process name: [[8443,1],0]\nExit code:    1";
        assert!(
            sentence(&format!("{other}\n{DEATH}"))
                .starts_with("rank 1 on host vm has ended without a word; last heard")
        );
    }

    #[test]
    fn a_refused_input_is_said_as_it_is() {
        let reader = read(
            "rank 1 (host a): input error: c.toml:3: [model] path: there is no m\nrank 0 (host a): the job ends",
        );
        assert_eq!(
            reader.culprit().unwrap().cause,
            Cause::Input("c.toml:3: [model] path: there is no m".into())
        );
    }

    #[test]
    fn the_partner_that_complains_is_not_the_culprit() {
        let output = format!(
            "rank 0 (host vm): rank 0: MPI failed in all_reduce: peer lost (code 15)\n{KILLED}"
        );
        assert_eq!(
            sentence(&output),
            "rank 1 on host vm was killed by signal 9 (SIGKILL) at step 12"
        );
        assert!(
            sentence("rank 0 (host vm): rank 0: MPI failed in all_reduce: x")
                .contains("MPI failed"),
            "better than nothing"
        );
    }

    #[test]
    fn an_error_that_was_logged_and_survived_is_no_failure() {
        let mut reader = Reader::default();
        assert!(!reader.line("rank 0 (host a): [error] a line of the data was skipped"));
        assert!(!reader.is_failing());
        assert!(reader.line("rank 1 (host a): out of memory"), "the first sign of failure");
        assert!(!reader.line("rank 0 (host a): out of memory"), "only the first");
        assert_eq!(reader.culprit().unwrap().rank, Some(1));
    }

    #[test]
    fn hydra_names_a_killed_process() {
        let output =
            "===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4321 RUNNING AT node2
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)";
        let reader = read(output);
        let fault = reader.culprit().unwrap();
        assert_eq!(
            (fault.rank, fault.pid, fault.host.as_deref()),
            (None, Some(4321), Some("node2"))
        );
        assert_eq!(
            fault.sentence(12),
            "a rank on host node2 was killed by signal 9 (SIGKILL) at step 12"
        );
        let intel = "=   RANK 1 PID 20114 RUNNING AT n1\n=   KILLED BY SIGNAL: 9 (Killed)";
        assert_eq!(
            sentence(intel),
            "rank 1 on host n1 was killed by signal 9 (SIGKILL) at step 12"
        );
    }

    #[test]
    fn hydra_names_a_rank_that_aborts_or_exits() {
        let abort = "Abort(3) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 3) - process 1";
        assert_eq!(sentence(abort), "rank 1 called MPI_Abort(3) at step 12");
        assert_eq!(
            sentence("=   PID 5 RUNNING AT n1\n=   EXIT CODE: 2"),
            "a rank on host n1 exited with code 2 at step 12"
        );
    }

    #[test]
    fn a_failure_that_nobody_explains_leaves_the_first_words() {
        let output = "ssh: Could not resolve hostname n7\n------\nORTE was unable to\nstart daemons.\n\n* not finding the libraries\n---";
        let reader = read(output);
        assert!(reader.culprit().is_none());
        assert_eq!(
            reader.first_words(),
            "ssh: Could not resolve hostname n7 ORTE was unable to start daemons."
        );
    }

    #[test]
    fn ordinary_output_is_no_sign_of_failure() {
        for line in [
            "rank order is fine",
            "rank 1 of 2 on vm, process 3",
            "3/30 loss 2.1",
            "=",
            "Exit code: 3",
            "with errorcode 3",
        ] {
            assert!(!Reader::default().line(line), "{line}");
        }
    }
}
