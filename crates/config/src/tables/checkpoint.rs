//! `[checkpoint]`: when the state of a run is written, how much of it is kept, and which signals ask for it.

use crate::{Error, choice::choice, place::Table, raw};
use serde::Serialize;

choice! {
    /// A signal that asks a run to save and stop.
    StopSignal {
        /// SIGUSR1, which schedulers send ahead of a time limit, and `mpirun` passes on.
        Usr1 = "USR1",
        /// SIGUSR2.
        Usr2 = "USR2",
        /// SIGTERM.
        Term = "TERM",
        /// SIGINT, of Ctrl-C.
        Int = "INT",
        /// SIGHUP, of a terminal that is closed.
        Hup = "HUP",
    }
}

/// `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// `every`: steps between checkpoints; 0 = only when a signal asks for one. Default: 100.
    pub every: u64,
    /// `keep`: how many of the newest checkpoints stay; the one with the lowest held-out loss stays beside them. Default: 2.
    pub keep: usize,
    /// `background`: write from a copy while training goes on, instead of waiting. Default: true.
    pub background: bool,
    /// `signals`: those on which a run saves, stops, and exits with code 75. A second one ends it at once. Default: `["USR1", "TERM"]`.
    pub signals: Vec<StopSignal>,
}

impl Checkpoint {
    pub(super) fn resolve(raw: raw::Checkpoint, at: Table<'_>) -> Result<Self, Error> {
        let keep = raw.keep.unwrap_or(2);
        at.require("keep", keep > 0, "must be > 0")?;
        let signals = match raw.signals {
            None => vec![StopSignal::Usr1, StopSignal::Term],
            Some(names) => {
                let given = names.iter().map(|name| at.choose("signals", Some(name), StopSignal::Usr1));
                let mut signals = given.collect::<Result<Vec<_>, _>>()?;
                signals.sort_unstable();
                signals.dedup();
                signals
            }
        };
        Ok(Self { every: raw.every.unwrap_or(100), keep, background: raw.background.unwrap_or(true), signals })
    }
}
