//! The kernels on the CPU, from the same text, for the tests.
#![allow(unsafe_code)]

use super::Kernel;
use std::ffi::{c_char, c_void};

unsafe extern "C" {
    /// Of `host.cpp`.
    fn loract_host_launch(name: *const c_char, grid_x: u32, grid_y: u32, block: u32, arguments: *const *mut c_void) -> bool;
}

/// # Safety
/// As for [`Card::launch`](super::cuda::Card::launch), with memory of the CPU.
pub(super) unsafe fn launch(kernel: Kernel, grid: [u32; 2], block: u32, arguments: &[*mut c_void]) {
    // SAFETY: the name is one of a kernel; the rest is the caller's promise.
    let known = unsafe { loract_host_launch(kernel.name().as_ptr(), grid[0], grid[1], block, arguments.as_ptr()) };
    assert!(known, "host.cpp does not know {kernel:?}");
}
