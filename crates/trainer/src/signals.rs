//! Signals that ask a run to save and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use config::StopSignal;

use crate::{Error, Result};

/// Signals within this time of the first are the same request: schedulers signal a job and its
/// processes, and `mpirun` forwards signals.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Whether a signal has asked this process to save and stop.
#[derive(Clone, Debug, Default)]
pub struct StopRequest(Arc<AtomicI32>);

impl StopRequest {
    /// A request that never comes.
    pub fn never() -> Self {
        Self::default()
    }

    /// Listens for `signals`, for as long as the process lives. The first is noted, and asks for a
    /// stop; a second one ends the process at once, with code 128 and its number.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(signals: &[StopSignal]) -> Result<Self> {
        let request = Self::default();
        if signals.is_empty() {
            return Ok(request);
        }
        let refused = |cause| {
            Error::Input(format!("cannot wait for signals: {cause}; set [checkpoint] signals = []"))
        };
        let mut arriving =
            Signals::new(signals.iter().map(|signal| signal_number(*signal))).map_err(refused)?;
        let asked = Arc::clone(&request.0);
        let listen = move || {
            let mut first = None;
            for signal in arriving.forever() {
                match action(&mut first, Instant::now()) {
                    SignalAction::Stop => {
                        asked.store(signal, Ordering::Relaxed);
                        tracing::info!(
                            "signal {signal}: the run saves and stops after this step; a second signal ends it at once"
                        );
                    }
                    SignalAction::Ignore => {}
                    SignalAction::Exit => signal_hook::low_level::exit(128 + signal),
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

/// What a signal asks for.
#[derive(Debug, PartialEq)]
enum SignalAction {
    /// To save and stop.
    Stop,
    /// Nothing more: it is the same request.
    Ignore,
    /// To exit at once.
    Exit,
}

/// What a signal asks for that comes `now`, where `first` is when the first one came.
fn action(first: &mut Option<Instant>, now: Instant) -> SignalAction {
    match *first {
        None => {
            *first = Some(now);
            SignalAction::Stop
        }
        Some(first) if now.saturating_duration_since(first) < SAME_REQUEST => SignalAction::Ignore,
        Some(_) => SignalAction::Exit,
    }
}

/// The number of a signal.
pub fn signal_number(signal: StopSignal) -> i32 {
    match signal {
        StopSignal::Usr1 => SIGUSR1,
        StopSignal::Usr2 => SIGUSR2,
        StopSignal::Term => SIGTERM,
        StopSignal::Int => SIGINT,
        StopSignal::Hup => SIGHUP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_noted() {
        assert_eq!(StopRequest::never().signal(), 0);
        let request = StopRequest::listen(&[StopSignal::Usr2]).unwrap();
        signal_hook::low_level::raise(SIGUSR2).unwrap();
        let end = Instant::now() + Duration::from_secs(600);
        while request.signal() == 0 && Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(request.signal(), SIGUSR2);
    }

    #[test]
    fn a_signal_soon_after_the_first_is_the_same_request_and_a_later_one_another() {
        let (mut first, start) = (None, Instant::now());
        let mut at = |milliseconds| action(&mut first, start + Duration::from_millis(milliseconds));
        assert_eq!(
            [at(0), at(0), at(99), at(100), at(5000)],
            [
                SignalAction::Stop,
                SignalAction::Ignore,
                SignalAction::Ignore,
                SignalAction::Exit,
                SignalAction::Exit
            ]
        );
    }
}
