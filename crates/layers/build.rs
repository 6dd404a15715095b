//! Compiles the call of flash attention; lets tests and examples find libtorch at run time.
use std::path::PathBuf;

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    let lib = PathBuf::from(
        std::env::var("DEP_TCH_LIBTORCH_LIB")
            .expect("torch-sys did not say where libtorch is; run ci/setup, or set LIBTORCH to the torch folder of PyTorch 2.11.0"),
    );
    println!("cargo:rerun-if-changed=src/attention/flash.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(lib.with_file_name("include"))
        .warnings(false)
        .file("src/attention/flash.cpp")
        .compile("loract_flash");
    link_libtorch::main();
}
