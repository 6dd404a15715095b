//! Signals that ask a run to save and stop.

use crate::config::StopSignal;
use crate::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Signals that come so soon after the first are the same request: schedulers signal a job and its processes, and `mpirun` passes on.
const SAME: Duration = Duration::from_millis(100);

/// Whether a signal has asked this process to save and stop.
#[derive(Clone, Debug, Default)]
pub struct StopRequest(Arc<AtomicI32>);

impl StopRequest {
    /// One that never comes.
    pub fn never() -> Self {
        Self::default()
    }

    /// Listens for `signals`, for as long as the process lives. The first is noted, and asks for a stop; a second one ends the process at
    /// once, with code 128 and its number.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(signals: &[StopSignal]) -> Result<Self> {
        let request = Self::default();
        if signals.is_empty() {
            return Ok(request);
        }
        let refused = |cause| Error::Input(format!("cannot wait for signals: {cause}; set [checkpoint] signals = []"));
        let mut arriving = Signals::new(signals.iter().map(|signal| signal.number())).map_err(refused)?;
        let asked = Arc::clone(&request.0);
        let listen = move || {
            let mut first: Option<Instant> = None;
            for signal in arriving.forever() {
                match first {
                    None => {
                        first = Some(Instant::now());
                        asked.store(signal, Ordering::Relaxed);
                        tracing::info!("signal {signal}: the run saves and stops after this step; a second signal ends it at once");
                    }
                    Some(first) if first.elapsed() < SAME => {}
                    Some(_) => signal_hook::low_level::exit(128 + signal),
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(refused)?;
        Ok(request)
    }

    /// The signal that asked, 0 if none has.
    pub fn signal(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl StopSignal {
    /// Its number.
    pub fn number(self) -> i32 {
        match self {
            Self::Usr1 => SIGUSR1,
            Self::Usr2 => SIGUSR2,
            Self::Term => SIGTERM,
            Self::Int => SIGINT,
            Self::Hup => SIGHUP,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_signal_is_noted_and_the_same_again_is_the_same_request() {
        assert_eq!(StopRequest::never().signal(), 0);
        let request = StopRequest::listen(&[StopSignal::Usr2]).unwrap();
        signal_hook::low_level::raise(SIGUSR2).unwrap();
        signal_hook::low_level::raise(SIGUSR2).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while request.signal() == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(request.signal(), SIGUSR2);
    }
}
