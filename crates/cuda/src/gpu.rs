//! One GPU: its context, its stream, its identity.

use std::ffi::c_void;

use cudarc::driver::{result as driver, sys};
// libtorch has it, and with it `loract_current_stream` of `stream.cpp`.
use torch_sys as _;

unsafe extern "C" {
    fn loract_current_stream(device: i64, stream: *mut *mut c_void) -> bool;
}

/// One GPU, by the number that libtorch gives it, with the context in which libtorch works on it.
/// It stays for the life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    index: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver's handles belong to no thread. They are neither changed nor freed as long as
// the program runs.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// The GPU that libtorch calls `index`.
    ///
    /// # Errors
    /// What is missing, or what the driver says.
    pub fn open(index: usize) -> Result<Self, String> {
        // SAFETY: looks for a library.
        if !unsafe { sys::is_culib_present() } {
            return Err("there is no CUDA driver (libcuda.so.1)".to_owned());
        }
        driver::init().map_err(said_by("cuInit"))?;
        let number = i32::try_from(index).map_err(|_| format!("there is no GPU {index}"))?;
        let device = driver::device::get(number).map_err(said_by("cuDeviceGet"))?;
        // SAFETY: the device is one of the driver's. The primary context is libtorch's; it is held
        // from here on.
        let context = unsafe { driver::primary_ctx::retain(device) }
            .map_err(said_by("cuDevicePrimaryCtxRetain"))?;
        Ok(Self { index, device, context })
    }

    /// The number that libtorch gives it.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What NVRTC calls its machine code: `sm_90`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn architecture(&self) -> Result<String, String> {
        let attribute = |which| {
            // SAFETY: the device is one of the driver's.
            unsafe { driver::device::get_attribute(self.device, which) }
                .map_err(said_by("cuDeviceGetAttribute"))
        };
        let major =
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor =
            attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(format!("sm_{major}{minor}"))
    }

    /// The number that no other GPU has, the same for every process.
    ///
    /// # Errors
    /// What the driver says.
    pub fn uuid(&self) -> Result<[u8; 16], String> {
        let uuid = driver::device::get_uuid(self.device).map_err(said_by("cuDeviceGetUuid"))?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }

    /// Makes its context this thread's current one until the answer is dropped, when the one before
    /// comes back, on which libtorch relies. Where there was none, it stays: libtorch would make it
    /// the current one itself, and warn.
    ///
    /// # Errors
    /// What the driver says.
    pub fn enter(&self) -> Result<Entered, String> {
        let mut before = std::ptr::null_mut();
        // SAFETY: writes a handle.
        unsafe { sys::cuCtxGetCurrent(&mut before) }
            .result()
            .map_err(said_by("cuCtxGetCurrent"))?;
        if before.is_null() {
            // SAFETY: the context is held by `self`.
            unsafe { sys::cuCtxSetCurrent(self.context) }
                .result()
                .map_err(said_by("cuCtxSetCurrent"))?;
            return Ok(Entered { to_leave: false });
        }
        // SAFETY: the context is held by `self`.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }
            .result()
            .map_err(said_by("cuCtxPushCurrent"))?;
        Ok(Entered { to_leave: true })
    }

    /// The stream on which libtorch queues this thread's work now. Work that is queued there comes
    /// after it, and before what libtorch queues later.
    ///
    /// # Errors
    /// This libtorch has no such GPU.
    pub fn stream(&self) -> Result<*mut c_void, String> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: writes a pointer.
        if unsafe { loract_current_stream(self.index as i64, &mut stream) } {
            return Ok(stream);
        }
        Err(format!("libtorch has no current stream on GPU {}", self.index))
    }
}

/// A context that is this thread's current one.
#[derive(Debug)]
#[must_use = "the context is left when this is dropped"]
pub struct Entered {
    to_leave: bool,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if !self.to_leave {
            return;
        }
        let mut popped = std::ptr::null_mut();
        // SAFETY: undoes the push of `Gpu::enter`; writes a handle.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

fn said_by(call: &'static str) -> impl Fn(driver::DriverError) -> String {
    move |error| format!("{call}: {error}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_gpu_is_itself_or_its_absence_is_said() {
        match Gpu::open(0) {
            Ok(gpu) => {
                assert!(tch::Cuda::is_available());
                assert_eq!(gpu.uuid().unwrap(), Gpu::open(0).unwrap().uuid().unwrap());
                assert!(gpu.architecture().unwrap().starts_with("sm_"));
                let _entered = gpu.enter().unwrap();
                gpu.stream().unwrap();
            }
            Err(missing) => assert!(
                missing.contains("no CUDA driver") || missing.starts_with("cu"),
                "{missing}"
            ),
        }
        assert!(Gpu::open(1000).is_err());
    }
}
