//! Compiles the question for libtorch's stream; lets tests find libtorch at run time.

#[path = "../link_libtorch.rs"]
mod link_libtorch;

fn main() {
    println!("cargo:rerun-if-changed=src/stream.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(link_libtorch::libtorch().with_file_name("include"))
        .warnings(false)
        .file("src/stream.cpp")
        .compile("loract_cuda_stream");
    link_libtorch::main();
}
