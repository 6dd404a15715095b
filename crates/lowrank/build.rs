//! Compiles the kernels for the tests on a CPU; lets tests and examples find libtorch at run time.

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    println!("cargo:rerun-if-changed=src/coded/kernels");
    // Nothing but the tests refers to these, so that nothing else carries them.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .warnings_into_errors(true)
        .file("src/coded/kernels/host.cpp")
        .compile("loract_lowrank_kernels");
    link_libtorch::main();
}
