use crate::ffi;

/// Whether operations on this thread record a graph.
pub fn grad_enabled() -> bool {
    // SAFETY: reads a thread-local flag.
    unsafe { ffi::loract_grad_mode() }
}

/// Sets whether operations on this thread record a graph, until it is dropped, also by a panic
/// (which `tch::no_grad` does not survive).
#[must_use = "the mode ends when the guard is dropped"]
#[derive(Debug)]
pub struct GradMode {
    before: bool,
    // The mode is the thread's, so the guard stays on it.
    _thread: std::marker::PhantomData<*const ()>,
}

impl GradMode {
    /// Records a graph from here on.
    pub fn enabled() -> Self {
        Self::set(true)
    }

    /// Records no graph from here on.
    pub fn disabled() -> Self {
        Self::set(false)
    }

    fn set(enabled: bool) -> Self {
        let before = grad_enabled();
        // SAFETY: writes a thread-local flag.
        unsafe { ffi::loract_set_grad_mode(enabled) };
        Self { before, _thread: std::marker::PhantomData }
    }
}

impl Drop for GradMode {
    fn drop(&mut self) {
        // SAFETY: writes a thread-local flag.
        unsafe { ffi::loract_set_grad_mode(self.before) };
    }
}
