//! Compiles the CUDA text of `loract-kernels` for the CPU. A package of its own, so that only tests
//! wait for it.

fn main() {
    let folders = ["../src/components", "../../cuda/src", "src"];
    folders.iter().for_each(|folder| println!("cargo:rerun-if-changed={folder}"));
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .warnings_into_errors(true)
        .includes(&folders[..2])
        .file("src/host.cpp")
        .compile("loract_kernels_host");
}
