//! How a rank that fails ends the whole job, and says who it was.
#![allow(unsafe_code)]

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use crate::env::rank_hint;

/// This process's rank and host, once a group knows them.
static IDENTITY: OnceLock<(usize, String)> = OnceLock::new();

/// The exit code of a process that panicked, as Rust's own.
const PANICKED: i32 = 101;

/// mpirun may end before what its daemons have read of a rank's last words has reached it: a head
/// start for them.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `MPI_Abort` talks to mpirun, over a network that may be what has failed: after so long the
/// process ends without it.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// Ends the whole job: prints `rank 1 (host NAME): message` on stderr and calls `MPI_Abort`, or
/// exits with code 1 if MPI is not up.
///
/// Once MPI is up, a program calls it for **every** error that other ranks might not have. To
/// return from `main` or to call [`std::process::exit`] instead leaves the others to find out.
pub fn abort(message: &str) -> ! {
    say(&format!(": {message}"));
    end_job(1)
}

/// From now on a panic on any thread ends the whole job: it prints `rank 1 (host NAME) panicked:
/// message at file:line` on stderr and calls `MPI_Abort`, or exits with code 101 if MPI is not up.
///
/// This holds for panics that somebody would catch, too. With `RUST_BACKTRACE` set, the backtrace
/// follows the message.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("a value that is no string");
        let place = panic
            .location()
            .map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let backtrace = std::backtrace::Backtrace::capture();
        let trace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        say(&format!(" panicked: {message}{place}{trace}"));
        end_job(PANICKED)
    }));
}

/// Notes who this process is, for the messages of all threads.
#[cfg(feature = "mpi")]
pub(crate) fn set_identity(rank: usize, host: &str) {
    // A process is one rank for its whole life, so that the first answer stays right.
    let _ = IDENTITY.set((rank, host.to_owned()));
}

/// Prints one line that begins with the rank and its host, in one write, so that lines of several
/// ranks do not mix.
pub(crate) fn say(rest: &str) {
    let (rank, host) = match IDENTITY.get() {
        Some((rank, host)) => (*rank, host.clone()),
        None => (rank_hint().unwrap_or(0), host_name()),
    };
    // Nothing is left to do about a stderr that is closed.
    let _ = std::io::stderr().write_all(format!("rank {rank} (host {host}){rest}\n").as_bytes());
}

/// Ends the job with this code, and this process in any case.
pub(crate) fn end_job(code: i32) -> ! {
    #[cfg(feature = "mpi")]
    {
        if crate::mpi::call::is_up() {
            crate::daemon::end_soon();
        }
        std::thread::sleep(LAST_WORDS);
        // Where no thread can be made, there is no limit.
        let _ = std::thread::Builder::new().spawn(move || {
            std::thread::sleep(ABORT_LIMIT);
            exit_now(code)
        });
        crate::mpi::call::abort_if_up(code);
    }
    exit_now(code)
}

fn exit_now(code: i32) -> ! {
    // `exit` would run destructors of libraries that other threads are still using, and could block
    // there. SAFETY: `_exit` ends the process and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// This host's name, or `unknown`.
pub(crate) fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the pointer and the length describe a buffer that lives through the call.
    let code = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) };
    let end = buffer.iter().position(|&byte| byte == 0);
    match end {
        Some(end) if code == 0 && end > 0 => String::from_utf8_lossy(&buffer[..end]).into_owned(),
        _ => "unknown".into(),
    }
}
