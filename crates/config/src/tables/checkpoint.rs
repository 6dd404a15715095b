//! `[checkpoint]`: when the state of a run is saved.

use crate::{
    Error,
    choice::choice,
    choice::valid,
    declare::table,
    range::{MOST_STEPS, Range},
    source_map::KeyPlace,
    value::Value,
};
use serde_json::{Value as Json, json};
use std::ops::Deref;

choice! {
    /// A signal that asks a run to save and stop.
    StopSignal {
        /// SIGUSR1, which schedulers send before a time limit, and which `mpirun` passes on.
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

table! {
    /// When checkpoints are written, how many are kept, and which signals ask for one.
    Checkpoint: "checkpoint" {
        /// Steps between checkpoints; 0 saves only when a signal asks for it.
        every: u64 = 100, within Range::at_least(0.0).at_most(MOST_STEPS), example "500";
        /// The number of newest checkpoints to keep. The one with the lowest validation loss is
        /// kept in addition.
        keep: usize = 2, within Range::above(0.0).at_most(1e6), example "3";
        /// Write a checkpoint from a copy while training continues, instead of waiting until it is
        /// written.
        background: bool = true, example "false";
        /// Signals on which a run saves a checkpoint and exits with code 75. A second signal ends
        /// it at once.
        signals: StopSignals = StopSignals(vec![StopSignal::Usr1, StopSignal::Term]),
            example r#"["USR1", "INT"]"#;
    }
}

/// Signals, each once, in the order of [`StopSignal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignals(Vec<StopSignal>);

impl Deref for StopSignals {
    type Target = Vec<StopSignal>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Value for StopSignals {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let mut signals = Vec::read(value, at)?;
        signals.sort_unstable();
        signals.dedup();
        Ok(Self(signals))
    }

    fn write(&self) -> Option<toml::Value> {
        self.0.write()
    }

    fn valid(_: Range) -> String {
        format!("a list of {}; [] for none", valid(<StopSignal as crate::choice::Choice>::NAMES))
    }

    fn schema(range: Range) -> Json {
        json!({"type": "array", "items": StopSignal::schema(range)})
    }

    fn choices() -> &'static [(&'static str, &'static str)] {
        StopSignal::choices()
    }
}
