//! What the ranks of a run have an eye on, beside the work: that they were given the same configuration, and that all are alive.

use crate::Result;
use crate::fingerprint;
use collective::{Heartbeat, HeartbeatOptions, ProcessGroup};
use config::Run;
use std::time::Duration;

/// Compares the ranks' configurations, and starts the heartbeat between them. It ends with [`Heartbeat::leave`] when the work is done, and
/// goes on when an error ends it.
///
/// # Errors
/// The configurations differ, or the heartbeat finds no way to rank 0.
pub(crate) fn start(run: &Run, group: &dyn ProcessGroup) -> Result<Heartbeat> {
    fingerprint::compare_configurations(run, group)?;
    let seconds = |seconds: u64| Duration::from_secs(seconds);
    let options = HeartbeatOptions {
        deadline: seconds(run.cluster.heartbeat_seconds),
        stall: Some(seconds(run.cluster.stall_seconds)).filter(|stall| !stall.is_zero()),
        // stderr has it already; `loract launch` finds it in the log, should it be lost on its way.
        told: |words| tracing::warn!("the run failed: {words}"),
    };
    Ok(Heartbeat::start(group, options)?)
}
