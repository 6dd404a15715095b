//! Lets the package find libtorch, and compiles what only MPI's header knows.

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    link_libtorch::main();
    #[cfg(feature = "mpi")]
    in_place();
}

/// With the compiler or the folders by which `mpi-sys` found MPI.
#[cfg(feature = "mpi")]
fn in_place() {
    const SOURCE: &str = "src/mpi/in_place.c";
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=MPICC");
    let mpi = build_probe_mpi::probe()
        .expect("MPI is not found; run ci/setup, or let MPICC name the compiler of your MPI");
    let mut build = cc::Build::new();
    build.file(SOURCE).includes(&mpi.include_paths);
    if let Some(compiler) = mpi.mpicc {
        build.compiler(compiler);
    }
    build.compile("loract_mpi_in_place");
}
