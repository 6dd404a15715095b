//! The bridge to C++ (`bridge/bridge.h`), and the little that both sides share.

use std::ffi::{CStr, c_char, c_void};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::Error;

unsafe extern "C" {
    pub fn loract_attach(
        function: *mut c_void,
        name: *const c_char,
        inputs: *const *const C_tensor,
        inputs_length: usize,
        outputs: *const *const C_tensor,
        differentiable: *const bool,
        outputs_length: usize,
        saved: *const *const C_tensor,
        saved_length: usize,
    ) -> *mut c_char;
    pub fn loract_saved(
        node: *mut c_void,
        saved: *mut *mut C_tensor,
        saved_length: usize,
    ) -> *mut c_char;
    pub fn loract_backward(
        outputs: *const *const C_tensor,
        gradients: *const *const C_tensor,
        length: usize,
        keep_graph: bool,
    ) -> *mut c_char;
    pub fn loract_grad(
        outputs: *const *const C_tensor,
        gradients: *const *const C_tensor,
        length: usize,
        inputs: *const *const C_tensor,
        inputs_length: usize,
        keep_graph: bool,
        create_graph: bool,
        input_grads: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub fn loract_set_hook(parameter: *const C_tensor, hook: *mut c_void) -> *mut c_char;
    pub fn loract_clear_hook(parameter: *const C_tensor) -> *mut c_char;
    pub fn loract_set_gradient(
        parameter: *const C_tensor,
        gradient: *const C_tensor,
    ) -> *mut c_char;
    pub fn loract_grad_mode() -> bool;
    pub fn loract_set_grad_mode(enabled: bool);
    pub fn loract_random_state(device: i64, state: *mut *mut C_tensor) -> *mut c_char;
    pub fn loract_set_random_state(device: i64, state: *const C_tensor) -> *mut c_char;
    pub fn loract_random_fill(target: *mut C_tensor, seed: u64, law: i32, p: f64) -> *mut c_char;
    pub fn loract_memory_install();
    pub fn loract_memory(device: i64, current: *mut i64, peak: *mut i64) -> *mut c_char;
    pub fn loract_memory_reset_peak(device: i64) -> *mut c_char;
    pub fn loract_side_stream(device: i64, stream: *mut i64) -> *mut c_char;
    pub fn loract_side_begin(
        device: i64,
        stream: i64,
        reads: *const *const C_tensor,
        length: usize,
        before: *mut i64,
    ) -> *mut c_char;
    pub fn loract_side_end(device: i64, before: i64, event: *mut *mut c_void) -> *mut c_char;
    pub fn loract_ready_wait(
        event: *const c_void,
        reads: *const *const C_tensor,
        length: usize,
    ) -> *mut c_char;
    pub fn loract_ready_free(event: *mut c_void);
    pub fn loract_free(message: *mut c_char);
}

/// Turns the bridge's answer into a result.
pub fn check(message: *mut c_char) -> Result<(), Error> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null answer is a NUL-terminated string on the heap that is ours to free, once,
    // with `loract_free`.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        loract_free(message);
        text
    };
    // libtorch appends a C++ stack trace that tells a reader nothing.
    let text = text.split("\nException raised from").next().unwrap_or(&text).trim_end().to_owned();
    Err(Error::Torch(text))
}

/// The pointers of tensors, valid while these are.
pub fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}

/// The bridge's number for a device.
pub fn device_index(operation: &'static str, device: Device) -> Result<i64, Error> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) if tch::Cuda::is_available() => Ok(index as i64),
        device => Err(Error::Device { operation, device }),
    }
}
