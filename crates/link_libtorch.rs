//! The build script of every package with a program or a test in it: lets it find libtorch at run
//! time, and keeps libtorch's CUDA half linked where there is one (nothing refers to it by name, so
//! the linker would drop it).
use std::path::{Path, PathBuf};

/// Also called by the build scripts that have more to do.
pub fn main() {
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        // Where pip puts NVIDIA's own libraries beside torch: NVRTC and NCCL are looked for when
        // they are first needed.
        for folder in ["cu13", "nccl"] {
            let nvidia = Path::new(&lib).join("../../nvidia").join(folder).join("lib");
            if nvidia.exists() {
                println!("cargo:rustc-link-arg=-Wl,-rpath,{}", nvidia.display());
            }
        }
        if Path::new(&lib).join("libtorch_cuda.so").exists() {
            println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
        }
    }
}

/// The folder `lib` of libtorch, beside its `include`: for build scripts that compile against it.
#[allow(dead_code, reason = "most of them do not")]
pub fn libtorch() -> PathBuf {
    PathBuf::from(
        std::env::var("DEP_TCH_LIBTORCH_LIB")
            .expect("torch-sys did not say where libtorch is; run ci/setup, or set LIBTORCH to the torch folder of PyTorch 2.11.0"),
    )
}
