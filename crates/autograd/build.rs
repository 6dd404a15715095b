//! Compiles the bridge to libtorch's autograd; lets tests find libtorch at run time.

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    let include = link_libtorch::libtorch().with_file_name("include");
    println!("cargo:rerun-if-changed=src/bridge/bridge.cpp");
    println!("cargo:rerun-if-changed=src/bridge/bridge.h");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/bridge/bridge.cpp")
        .compile("loract_autograd");
    link_libtorch::main();
}
