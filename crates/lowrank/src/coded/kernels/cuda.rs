//! The kernels on an NVIDIA GPU: compiled by NVRTC when they are first needed, queued where libtorch queues its own work.
//!
//! Nothing of CUDA is linked: its driver and NVRTC are looked for when the program runs, and a machine without them needs none.

// The driver's functions take raw handles and pointers; each block says why those are valid.
#![allow(unsafe_code)]

use super::Kernel;
use cuda::Gpu;
use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Once;

const SOURCE: &str = include_str!("coded.cu");

/// Sums and products are rounded one by one, as everywhere else.
const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];

/// The kernels, loaded into the context of libtorch on one GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Card {
    gpu: Gpu,
    functions: [sys::CUfunction; Kernel::ALL.len()],
}

// SAFETY: the driver's handles belong to no thread. They are neither changed nor freed as long as the program runs.
unsafe impl Send for Card {}

impl Card {
    /// Compiles the kernels for the GPU that libtorch calls `index`. Otherwise, what is missing.
    pub(super) fn load(index: usize) -> Result<Self, String> {
        let gpu = Gpu::open(index)?;
        let code = compile(&gpu.architecture()?)?;
        let _entered = gpu.enter()?;
        // SAFETY: the image is what NVRTC made, whole.
        let module = unsafe { driver::module::load_data(code.as_ptr().cast()) }.map_err(|error| format!("cuModuleLoadData: {error}"))?;
        let mut functions = [std::ptr::null_mut(); Kernel::ALL.len()];
        for (function, kernel) in functions.iter_mut().zip(Kernel::ALL) {
            // SAFETY: the module has just been loaded, and stays.
            *function = unsafe { driver::module::get_function(module, kernel.name().to_owned()) }
                .map_err(|error| format!("cuModuleGetFunction: {error}"))?;
        }
        Ok(Self { gpu, functions })
    }

    /// Queues a kernel behind all that libtorch has queued on its current stream: the side stream, while that is the current one.
    ///
    /// # Safety
    /// `arguments` point to what the kernel takes: 8 bytes each, pointers among them to device memory of the shapes that it states.
    pub(super) unsafe fn launch(&self, kernel: Kernel, grid: [u32; 2], block: u32, arguments: &mut [*mut c_void]) -> Result<(), String> {
        let stream = self.gpu.stream()?;
        let _entered = self.gpu.enter()?;
        let function = self.functions[kernel as usize];
        // SAFETY: function, context and stream are of the same device; the rest is the caller's promise.
        let status = unsafe {
            sys::cuLaunchKernel(function, grid[0], grid[1], 1, block, 1, 1, 0, stream.cast(), arguments.as_mut_ptr(), std::ptr::null_mut())
        };
        status.result().map_err(|error| error.to_string())
    }
}

/// The kernels for one `architecture`: machine code for `sm_90`, PTX for `compute_90`. Otherwise, what is missing, or what NVRTC says.
pub(super) fn compile(architecture: &str) -> Result<Vec<u8>, String> {
    // SAFETY: looks for a library.
    if !unsafe { nvrtc_sys::is_culib_present() } {
        return Err("there is no NVRTC (libnvrtc.so.13); pip install nvidia-cuda-nvrtc, or a CUDA toolkit, brings it".to_owned());
    }
    load_builtins();
    let refused = |error: nvrtc::NvrtcError| format!("NVRTC: {error}");
    let source = CString::new(SOURCE).map_err(|error| error.to_string())?;
    let program = nvrtc::create_program(&source, Some(c"coded.cu")).map_err(refused)?;
    let options: Vec<String> =
        OPTIONS.iter().map(|&option| option.to_owned()).chain([format!("--gpu-architecture={architecture}")]).collect();
    // SAFETY: the program is one of NVRTC's until it is destroyed below.
    let compiled = unsafe { nvrtc::compile_program(program, &options) };
    let code = match compiled {
        Ok(()) => code_of(program, architecture.starts_with("sm_")).map_err(refused),
        // SAFETY: as above.
        Err(error) => match unsafe { nvrtc::get_program_log(program) } {
            Ok(log) => Err(format!("{}: {}", refused(error), text(&log))),
            Err(_) => Err(refused(error)),
        },
    };
    // SAFETY: as above, and for the last time.
    unsafe { nvrtc::destroy_program(program) }.map_err(refused)?;
    code
}

fn code_of(program: nvrtc_sys::nvrtcProgram, machine: bool) -> Result<Vec<u8>, nvrtc::NvrtcError> {
    if !machine {
        // SAFETY: the program is one of NVRTC's, and compiled.
        let ptx = unsafe { nvrtc::get_ptx(program) }?;
        return Ok(ptx.into_iter().map(|char| char as u8).collect());
    }
    let mut size = 0;
    // SAFETY: as above; writes a size.
    unsafe { nvrtc_sys::nvrtcGetCUBINSize(program, &mut size) }.result()?;
    let mut code = vec![0u8; size];
    // SAFETY: as above; writes as many bytes as it has just said.
    unsafe { nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()) }.result()?;
    Ok(code)
}

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&char| char as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map_or_else(|_| String::new(), |text| text.to_string_lossy().trim().to_owned())
}

/// NVRTC asks the loader for a second library by its bare name, which is found if it is loaded already; from pip, it lies beside the first.
fn load_builtins() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        if unsafe { nvrtc_sys::nvrtcVersion(&mut major, &mut minor) }.result().is_ok() {
            // SAFETY: a library of NVIDIA's that runs nothing when it is loaded.
            let builtins = unsafe { libloading::Library::new(format!("libnvrtc-builtins.so.{major}.{minor}")) };
            // It stays loaded. Where it is not found here, NVRTC may know better, or says so.
            if let Ok(builtins) = builtins {
                std::mem::forget(builtins);
            }
        }
    });
}
