//! Compiles the kernels for the tests on a CPU, and the question for libtorch's stream; lets tests and examples find libtorch at run time.
use std::path::PathBuf;

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    let lib = PathBuf::from(
        std::env::var("DEP_TCH_LIBTORCH_LIB")
            .expect("torch-sys did not say where libtorch is; run ci/setup, or set LIBTORCH to the torch folder of PyTorch 2.11.0"),
    );
    println!("cargo:rerun-if-changed=src/coded/kernels");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(lib.with_file_name("include"))
        .warnings(false)
        .file("src/coded/kernels/stream.cpp")
        .compile("loract_lowrank_stream");
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
