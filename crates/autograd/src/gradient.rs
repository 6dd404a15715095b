use std::ffi::{c_char, c_void};
use std::sync::Mutex;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::ffi::{self, check, pointers};
use crate::function::guard;
use crate::{BoxError, Error};

/// Adds the gradients of all leaves below `outputs` to their `.grad`.
///
/// `gradients` are those of the outputs, one each; `None` stands for 1 and is for scalars only.
///
/// # Errors
/// [`Error::Torch`] with the message of whatever backward failed, panics included;
/// [`Error::Length`].
pub fn backward(
    outputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
    keep_graph: bool,
) -> Result<(), Error> {
    same_length("backward", outputs.len(), gradients.len())?;
    let (outputs, gradients) = (pointers(outputs.iter().copied()), optional_pointers(gradients));
    // SAFETY: both arrays hold valid (or null) tensors for the length of the call.
    check(unsafe {
        ffi::loract_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len(), keep_graph)
    })
}

/// The gradients of `outputs` with respect to `inputs`; nothing is added to any `.grad`, and no
/// hook is called.
///
/// `None` in the result: the outputs do not depend on that input. With `create_graph` the gradients
/// can be differentiated again.
///
/// # Errors
/// As [`backward`]; also if an input requires no gradient.
pub fn grad(
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
    keep_graph: bool,
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>, Error> {
    same_length("grad", outputs.len(), gradients.len())?;
    let (outputs, gradients) = (pointers(outputs.iter().copied()), optional_pointers(gradients));
    let inputs = pointers(inputs.iter().copied());
    let mut input_grads = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: the arrays hold valid (or null) tensors for the length of the call, and `input_grads`
    // has room for one each input.
    check(unsafe {
        ffi::loract_grad(
            outputs.as_ptr(),
            gradients.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            keep_graph || create_graph,
            create_graph,
            input_grads.as_mut_ptr(),
        )
    })?;
    // SAFETY: a non-null answer is a new tensor handed over to us.
    Ok(input_grads
        .into_iter()
        .map(|input_grad| (!input_grad.is_null()).then(|| unsafe { Tensor::from_ptr(input_grad) }))
        .collect())
}

fn same_length(operation: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Length { operation, what: "gradients of outputs", expected, got })
}

fn optional_pointers(tensors: &[Option<&Tensor>]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.map_or(std::ptr::null(), |tensor| tensor.as_ptr())).collect()
}

/// What is called when a parameter's gradient is complete.
type Hook = Mutex<Box<dyn FnMut(&Tensor) -> Result<(), BoxError> + Send>>;

/// Calls `hook` with the parameter once in each [`backward`], when its `.grad` is complete, on the
/// thread that runs backward. A parameter has one hook; a new one replaces it.
///
/// The hook must not own the parameter (a cycle that is never freed); it is given it.
///
/// # Errors
/// If `parameter` is not a leaf that requires gradients. An error of the hook itself comes out of
/// [`backward`].
pub fn on_gradient(
    parameter: &Tensor,
    hook: impl FnMut(&Tensor) -> Result<(), BoxError> + Send + 'static,
) -> Result<(), Error> {
    let hook: Box<Hook> = Box::new(Mutex::new(Box::new(hook)));
    // SAFETY: the parameter is valid; the bridge takes the hook over and drops it once, also when
    // it fails.
    check(unsafe { ffi::loract_set_hook(parameter.as_ptr(), Box::into_raw(hook).cast()) })
}

/// Removes the hook of [`on_gradient`].
///
/// # Errors
/// Those of libtorch.
pub fn clear_gradient_hook(parameter: &Tensor) -> Result<(), Error> {
    // SAFETY: the parameter is valid.
    check(unsafe { ffi::loract_clear_hook(parameter.as_ptr()) })
}

/// Lets the `.grad` of a leaf be the memory of `gradient`, into which backward then adds in place;
/// `None` takes the `.grad` away.
///
/// # Errors
/// If `parameter` is not a leaf that requires gradients, or `gradient` has not its shape, dtype and
/// device.
pub fn set_gradient(parameter: &Tensor, gradient: Option<&Tensor>) -> Result<(), Error> {
    // SAFETY: the parameter is valid, and the gradient is valid or null.
    check(unsafe {
        ffi::loract_set_gradient(
            parameter.as_ptr(),
            gradient.map_or(std::ptr::null(), Tensor::as_ptr),
        )
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn loract_rust_hook(hook: *mut c_void, parameter: *mut C_tensor) -> *mut c_char {
    guard("gradient hook", || {
        // SAFETY: the bridge calls with a hook that is alive and a valid tensor.
        let (hook, parameter) =
            unsafe { (&*hook.cast::<Hook>(), Tensor::clone_from_ptr(parameter)) };
        let mut hook = hook.lock().map_err(|_| "an earlier call panicked")?;
        hook(&parameter)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn loract_rust_drop_hook(hook: *mut c_void) {
    // SAFETY: called once with the pointer that `on_gradient` made.
    drop(unsafe { Box::from_raw(hook.cast::<Hook>()) });
}
