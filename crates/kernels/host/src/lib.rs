//! The CUDA kernels of `loract-kernels` as functions of the CPU, from the same text, for tests.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

unsafe extern "C" {
    /// Of `host.cpp`.
    fn loract_host_launch(
        name: *const c_char,
        grid_x: u32,
        grid_y: u32,
        block: u32,
        arguments: *const *mut c_void,
    ) -> bool;
}

/// Runs the kernel called `name` on a grid of blocks of `block` threads, one thread after another.
/// False if there is no such kernel.
///
/// # Safety
/// `arguments` point to what the kernel takes: 8 bytes each, pointers among them to memory of the
/// CPU, of the shapes that it states.
pub unsafe fn launch(name: &CStr, grid: [u32; 2], block: u32, arguments: &[*mut c_void]) -> bool {
    // SAFETY: the caller's promise.
    unsafe { loract_host_launch(name.as_ptr(), grid[0], grid[1], block, arguments.as_ptr()) }
}
