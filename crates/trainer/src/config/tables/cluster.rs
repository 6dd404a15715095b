//! `[cluster]`: how many ranks, and how they are started.

use crate::config::{Error, place::Table, raw};
use serde::Serialize;

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// `ranks`: the number of ranks that `loract launch` starts unless `-n` says otherwise. Default: 1.
    pub ranks: usize,
    /// `mpirun`: the program that starts ranks. Default: `"mpirun"`.
    pub mpirun: String,
    /// `mpirun_args`: more arguments for it, such as `["--hostfile", "hosts"]`. Default: none.
    pub mpirun_args: Vec<String>,
}

impl Cluster {
    pub(super) fn resolve(raw: raw::Cluster, at: Table<'_>) -> Result<Self, Error> {
        let ranks = raw.ranks.unwrap_or(1);
        at.require("ranks", ranks > 0, "must be > 0")?;
        let mpirun = raw.mpirun.unwrap_or_else(|| "mpirun".to_owned());
        at.require("mpirun", !mpirun.is_empty(), "must not be empty")?;
        Ok(Self { ranks, mpirun, mpirun_args: raw.mpirun_args.unwrap_or_default() })
    }
}
