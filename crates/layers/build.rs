//! Compiles the call of flash attention; lets tests and examples find libtorch at run time.

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    println!("cargo:rerun-if-changed=src/attention/flash.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(link_libtorch::libtorch().with_file_name("include"))
        .warnings(false)
        .file("src/attention/flash.cpp")
        .compile("loract_flash");
    link_libtorch::main();
}
