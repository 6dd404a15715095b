//! Kernels compiled at run time: by NVRTC when they are first needed, queued where libtorch queues
//! its own work.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Once;

use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use crate::gpu::Gpu;

/// Sums and products are rounded one by one, as on a CPU.
const OPTIONS: [&str; 2] = ["--fmad=false", "--std=c++17"];

/// The kernels of one CUDA text, loaded into the context of libtorch on one GPU. It stays for the
/// life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    gpu: Gpu,
    functions: &'static [sys::CUfunction],
}

// SAFETY: the driver's handles belong to no thread. They are neither changed nor freed as long as
// the program runs.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Compiles `source`, called `file` in messages, for `gpu`, and finds its `kernels`.
    ///
    /// # Errors
    /// What is missing (NVRTC), what the compiler says of the text, or what the driver says.
    pub fn compile(gpu: Gpu, file: &CStr, source: &str, kernels: &[&CStr]) -> Result<Self, String> {
        let code = compile(file, source, &gpu.architecture()?)?;
        let _entered = gpu.enter()?;
        // SAFETY: the image is what NVRTC made, whole.
        let module = unsafe { driver::module::load_data(code.as_ptr().cast()) }
            .map_err(|error| format!("cuModuleLoadData: {error}"))?;
        let function = |kernel: &&CStr| {
            // SAFETY: the module has just been loaded, and stays.
            unsafe { driver::module::get_function(module, (*kernel).to_owned()) }
                .map_err(|error| format!("cuModuleGetFunction: {error}"))
        };
        let functions = kernels.iter().map(function).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { gpu, functions: functions.leak() })
    }

    /// Queues a kernel, by its place in the list that [`Module::compile`] was given, after all that
    /// libtorch has queued on its current stream: the side stream, while that is the current one.
    /// `grid` are blocks in two directions, of `block` threads each.
    ///
    /// # Errors
    /// What the driver says, which may be of an earlier fault on this GPU.
    ///
    /// # Safety
    /// `arguments` point to what the kernel takes: 8 bytes each, pointers among them to device
    /// memory of the shapes that it states.
    pub unsafe fn launch(
        &self,
        kernel: usize,
        grid: [u32; 2],
        block: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String> {
        let stream = self.gpu.stream()?;
        let _entered = self.gpu.enter()?;
        let function = self.functions[kernel];
        // SAFETY: function, context and stream are of the same device; the rest is the caller's
        // promise.
        let status = unsafe {
            sys::cuLaunchKernel(
                function,
                grid[0],
                grid[1],
                1,
                block,
                1,
                1,
                0,
                stream.cast(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        status.result().map_err(|error| error.to_string())
    }
}

/// Compiles CUDA `source`, called `file` in messages, for one `architecture`: to machine code for
/// `sm_90`, to PTX for `compute_90`. Needs no GPU. Products and sums are not contracted, so that
/// results are those of the same text on a host.
///
/// # Errors
/// What is missing (NVRTC), or what the compiler says of the text.
pub fn compile(file: &CStr, source: &str, architecture: &str) -> Result<Vec<u8>, String> {
    // SAFETY: looks for a library.
    if !unsafe { nvrtc_sys::is_culib_present() } {
        return Err("there is no NVRTC (libnvrtc.so.13); pip install nvidia-cuda-nvrtc, or a CUDA toolkit, brings it".to_owned());
    }
    load_builtins();
    let refused = |error: nvrtc::NvrtcError| format!("NVRTC: {error}");
    let source = CString::new(source).map_err(|error| error.to_string())?;
    let program = nvrtc::create_program(&source, Some(file)).map_err(refused)?;
    let options: Vec<String> = OPTIONS
        .iter()
        .map(|&option| option.to_owned())
        .chain([format!("--gpu-architecture={architecture}")])
        .collect();
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
    CStr::from_bytes_until_nul(&bytes)
        .map_or_else(|_| String::new(), |text| text.to_string_lossy().trim().to_owned())
}

/// NVRTC asks the loader for a second library by its bare name, which is found if it is loaded
/// already; from pip, it lies in the first one's folder.
fn load_builtins() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        if unsafe { nvrtc_sys::nvrtcVersion(&mut major, &mut minor) }.result().is_ok() {
            // SAFETY: a library of NVIDIA's that runs nothing when it is loaded.
            let builtins = unsafe {
                libloading::Library::new(format!("libnvrtc-builtins.so.{major}.{minor}"))
            };
            // It stays loaded. Where it is not found here, NVRTC may know better, or says so.
            if let Ok(builtins) = builtins {
                std::mem::forget(builtins);
            }
        }
    });
}
