//! NCCL's functions, looked for when they are first needed. Types and constants are cudarc's; its
//! loader knows neither `libnccl.so.2`, the only name in PyTorch's packages, nor what to do without
//! it. Codes are plain numbers here, as a newer NCCL may have more of them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use libloading::Library as Loaded;

pub(super) type Code = u32;
pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;

/// Where it is looked for, by the loader's rules: among what is loaded already, in
/// `LD_LIBRARY_PATH`, beside PyTorch, in the system.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) -> $answer:ty;)*) => {
        /// The functions that are used, of one library that stays loaded.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $answer,)*
        }

        impl Library {
            fn from_loaded(loaded: &Loaded) -> Result<Library, libloading::Error> {
                // SAFETY: these are NCCL's own declarations, the same in every NCCL 2 that has the
                // function.
                unsafe { Ok(Library { $($field: *loaded.get($symbol)?,)* }) }
            }
        }
    };
}

functions! {
    get_version = c"ncclGetVersion": fn(*mut c_int) -> Code;
    get_unique_id = c"ncclGetUniqueId": fn(*mut ncclUniqueId) -> Code;
    comm_init_rank_config = c"ncclCommInitRankConfig": fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> Code;
    comm_get_async_error = c"ncclCommGetAsyncError": fn(ncclComm_t, *mut Code) -> Code;
    comm_finalize = c"ncclCommFinalize": fn(ncclComm_t) -> Code;
    comm_destroy = c"ncclCommDestroy": fn(ncclComm_t) -> Code;
    comm_abort = c"ncclCommAbort": fn(ncclComm_t) -> Code;
    get_error_string = c"ncclGetErrorString": fn(Code) -> *const c_char;
    get_last_error = c"ncclGetLastError": fn(ncclComm_t) -> *const c_char;
    all_reduce = c"ncclAllReduce":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, *mut c_void) -> Code;
    reduce_scatter = c"ncclReduceScatter":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, *mut c_void) -> Code;
    broadcast = c"ncclBroadcast":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, *mut c_void) -> Code;
    all_gather = c"ncclAllGather": fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, *mut c_void) -> Code;
}

/// The first with a way to meet without blocking, and the first with the functions above.
const OLDEST: c_int = 21800;

impl Library {
    /// The library, the same one each time; otherwise what is missing, and the remedy.
    pub(super) fn get() -> Result<&'static Library, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(Library::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Library, String> {
        const REMEDY: &str = "pip install nvidia-nccl-cu13, or install libnccl2, and let LD_LIBRARY_PATH name its folder";
        let mut reason = String::new();
        for name in NAMES {
            // SAFETY: a library of NVIDIA's; that it can be loaded at any time is how PyTorch uses
            // it too.
            match unsafe { Loaded::new(name) } {
                Ok(loaded) => {
                    let library = Library::from_loaded(&loaded).map_err(|error| {
                        format!("{name} is not a NCCL of today ({error}); {REMEDY}")
                    })?;
                    std::mem::forget(loaded);
                    let version = library.version();
                    if version < OLDEST {
                        return Err(format!(
                            "{name} is NCCL {version}, and {OLDEST} is needed; {REMEDY}"
                        ));
                    }
                    return Ok(library);
                }
                Err(error) if reason.is_empty() => reason = error.to_string(),
                Err(_) => {}
            }
        }
        Err(format!("NCCL is not found ({reason}); {REMEDY}"))
    }

    /// As a number: 22809 is 2.28.9.
    pub(super) fn version(&self) -> c_int {
        let mut version = 0;
        // SAFETY: writes an integer. What it answers shows in the integer.
        unsafe { (self.get_version)(&mut version) };
        version
    }

    /// NCCL's words for a code, and for what led to it on a communicator (which may be null).
    pub(super) fn words(&self, code: Code, communicator: ncclComm_t) -> String {
        // SAFETY: both answer with a text of the library's or with null; the communicator is the
        // library's, or null.
        let texts = unsafe { [(self.get_error_string)(code), (self.get_last_error)(communicator)] };
        let texts = texts.into_iter().filter(|text| !text.is_null()).map(|text| {
            // SAFETY: as above: a text ends with 0, and is copied at once.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned()
        });
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    }
}
