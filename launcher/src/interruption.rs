//! Signals that come while there is nothing to save: before the ranks run, or before they train.

use crate::{failure::STOPPED, fault};
use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    time::Duration,
};

/// How often a signal is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Ends the process on a signal, until it is dropped.
#[derive(Debug)]
pub struct Interruptible {
    /// Closed to end it.
    _stop: Sender<()>,
}

impl Interruptible {
    /// While it lives, a signal that `taken` gives ends the process at once, with a line that says
    /// what it was doing. Where `asks_to_stop`, the exit code is the one on which schedulers start
    /// a job again.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        doing: &'static str,
        asks_to_stop: impl Fn(usize) -> bool + Send + 'static,
        taken: impl Fn() -> usize + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = channel();
        let look = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(POLL_INTERVAL) {
                let signal = taken();
                if signal != 0 {
                    let code = if asks_to_stop(signal) { i32::from(STOPPED) } else { 1 };
                    eprintln!("{}", words(signal, doing));
                    std::process::exit(code);
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(look)?;
        Ok(Self { _stop: stop })
    }
}

fn words(signal: usize, doing: &str) -> String {
    let signal = i32::try_from(signal).unwrap_or_default();
    format!(
        "stopped by {} while {doing}; there was nothing to save; run the same command again to continue",
        fault::signal_name(signal)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_signal_and_phase() {
        assert_eq!(
            words(15, "preparing data"),
            "stopped by signal 15 (SIGTERM) while preparing data; there was nothing to save; run the same command again to continue"
        );
    }
}
