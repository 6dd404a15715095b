//! The mpirun on the PATH, and what it has to be told on a machine of tests.

use std::process::Command;

/// `mpirun`, with more ranks than cores, also as root. Containers forbid the system call behind
/// Open MPI's single copies, and it would say so at each start. MPICH's needs to be told nothing.
pub fn mpirun() -> Vec<&'static str> {
    let mut words = vec!["mpirun"];
    if !is_hydra() {
        words.extend([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
            "--mca",
            "btl_vader_single_copy_mechanism",
            "none",
        ]);
    }
    words
}

/// Whether it is MPICH's.
pub fn is_hydra() -> bool {
    let version =
        Command::new("mpirun").arg("--version").output().expect("mpirun is on the PATH").stdout;
    String::from_utf8_lossy(&version).contains("HYDRA")
}
