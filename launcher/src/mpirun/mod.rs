//! Starting ranks with mpirun, and ending them.

mod dialect;
mod job;
mod processes;

pub use dialect::{Dialect, Ranks};
pub use job::Job;
