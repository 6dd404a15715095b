//! Process groups: the ranks of a job and what they do together.
//!
//! A [`ProcessGroup`] sums, broadcasts and gathers dense tensors and bytes. [`Single`] is a job of
//! one process; [`Mpi`] (cargo feature `mpi`, on by default) is every rank that `mpirun` or `srun`
//! started, and hands tensors on a GPU to NCCL. [`run`] picks the right one:
//!
//! ```no_run
//! let mean = collective::run(|group| -> Result<f64, collective::Error> {
//!     let mut sum = tch::Tensor::from(group.rank() as f64);
//!     group.all_reduce(&mut sum, collective::Reduce::Sum)?;
//!     Ok(sum.double_value(&[]) / group.world_size() as f64)
//! })?;
//! # Ok::<(), collective::Error>(())
//! ```
//!
//! # No rank waits for a rank that has failed
//! A collective call returns when every rank has made it, so one rank that fails alone would leave
//! the others waiting for ever. Hence:
//! - a wrong use (a dtype that is not carried, unequal shapes, different operations) is an `Err` on
//!   **every** rank, found by comparing a 16-byte fingerprint before each collective
//!   ([`MpiOptions::check`]), and the group stays usable;
//! - a panic on any thread ends the whole job and names the rank ([`install_panic_hook`]);
//! - an error that only some ranks have must end in [`abort`] once MPI is up. [`run`] does so for
//!   every `Err` of its body;
//! - a group that is dropped while other ranks still communicate ends the job with a message,
//!   rather than waiting in `MPI_Finalize`;
//! - a rank that is killed is noticed by `mpirun`, which ends the others and names the rank;
//! - a rank that is stopped, hangs, or is cut off by the network is noticed by the [`Heartbeat`],
//!   which names it and ends the job.
#![cfg_attr(not(feature = "mpi"), allow(rustdoc::broken_intra_doc_links))]

mod activity;
mod daemon;
mod deadline;
pub mod env;
mod error;
mod failure;
mod group;
mod heartbeat;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "mpi")]
mod nccl;
mod payload;
mod run;
mod single;

pub use activity::note_step;
pub use deadline::Deadline;
pub use env::{Launch, Launcher, launched_by_mpi, local_rank_hint, local_size_hint, rank_hint};
pub use error::{Error, Result};
pub use failure::{abort, install_panic_hook};
pub use group::{ProcessGroup, Reduce};
pub use heartbeat::{Heartbeat, HeartbeatOptions};
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, MpiOptions};
pub use run::{connect, run};
pub use single::Single;
