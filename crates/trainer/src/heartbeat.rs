//! Starts what monitors the ranks: one comparison of their configurations, and a heartbeat while
//! they work.

use std::time::Duration;

use collective::{Heartbeat, HeartbeatOptions, ProcessGroup};
use config::Run;

use crate::Result;
use crate::consistency::compare_configurations;

/// Compares the ranks' configurations, and starts the heartbeat between them, for
/// [`train_watched`](crate::train_watched). [`Heartbeat::leave`] ends it when the work is done; after
/// an error it continues.
///
/// # Errors
/// The configurations differ, or rank 0 cannot be reached.
pub fn start_heartbeat(run: &Run, group: &dyn ProcessGroup) -> Result<Heartbeat> {
    compare_configurations(run.keys(), group)?;
    let seconds = |seconds: u64| Duration::from_secs(seconds);
    let options = HeartbeatOptions {
        deadline: seconds(run.cluster.heartbeat_seconds),
        stall: Some(seconds(run.cluster.stall_seconds)).filter(|stall| !stall.is_zero()),
        // stderr has it already; `loract launch` finds it in the log, should it be lost on its way.
        told: |words| tracing::warn!("the run failed: {words}"),
    };
    Ok(Heartbeat::start(group, options)?)
}
