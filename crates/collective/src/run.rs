//! How a process joins its group, and runs one rank's program in it.

use std::fmt::Display;
use std::sync::Arc;

use crate::env::contradiction;
use crate::{Error, ProcessGroup, Result, Single, install_panic_hook, launched_by_mpi};

/// Runs the program of one rank: installs the panic hook, joins the group ([`connect`]), and calls
/// `body`.
///
/// An `Err` of the body ends the job through [`abort`](crate::abort) with its message (`{:#}`, so
/// that `anyhow` shows its chain): however a rank leaves the body, no other rank waits for it.
/// Errors that every rank meets before it needs the others, such as a wrong configuration, are
/// better found before this call.
///
/// # Errors
/// Only those of [`connect`].
pub fn run<T, E: Display>(body: impl FnOnce(Arc<dyn ProcessGroup>) -> Result<T, E>) -> Result<T> {
    install_panic_hook();
    let group = connect()?;
    match body(Arc::clone(&group)) {
        Ok(value) => Ok(value),
        Err(error) => group.abort(&format!("{error:#}")),
    }
}

/// Joins the group this process was started in: [`Mpi`](crate::Mpi) if a launcher started it,
/// [`Single`] if it is alone.
///
/// # Errors
/// Those of [`Mpi::initialize`](crate::Mpi::initialize); [`Error::BuiltWithoutMpi`]; and
/// [`Error::Alone`] where a launcher says that there are more ranks, or fewer, than MPI has found.
pub fn connect() -> Result<Arc<dyn ProcessGroup>> {
    let group = join()?;
    match contradiction(group.world_size(), |name| std::env::var(name).ok()) {
        None => Ok(group),
        Some((variable, value, remedy)) => {
            let world_size = group.world_size();
            Err(Error::Alone { variable, value, world_size, remedy })
        }
    }
}

fn join() -> Result<Arc<dyn ProcessGroup>> {
    match launched_by_mpi() {
        None => Ok(Arc::new(Single::new())),
        #[cfg(feature = "mpi")]
        Some(_) => Ok(Arc::new(crate::Mpi::initialize()?)),
        #[cfg(not(feature = "mpi"))]
        Some(launch) if launch.world_size == Some(1) => Ok(Arc::new(Single::new())),
        #[cfg(not(feature = "mpi"))]
        Some(launch) => {
            let ranks =
                launch.world_size.map_or("several ranks".into(), |size| format!("{size} ranks"));
            Err(Error::BuiltWithoutMpi { launcher: launch.launcher.name(), ranks })
        }
    }
}
