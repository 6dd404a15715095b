use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::ffi::{self, check, pointers};
use crate::{BoxError, Error, GradMode, grad_enabled};

/// An operation whose backward is written in Rust; the counterpart of `torch.autograd.Function`.
///
/// The value itself carries what the operation needs, and, from forward to backward, whatever it
/// saved for it. It is dropped as soon as backward has used it (unless the graph is kept), so what
/// it holds is freed then.
///
/// On CUDA, backward runs on a thread of libtorch's: hence `Send`.
pub trait Function: Send + 'static {
    /// Named in errors, e.g. `rms_norm`.
    fn name(&self) -> String;

    /// Computes the outputs. Runs with gradients off; the outputs must be new tensors, never an
    /// input itself.
    ///
    /// # Errors
    /// Whatever the operation fails with; [`apply`] returns it as [`Error::Forward`].
    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError>;

    /// From the outputs' gradients (`None`: zero) to the inputs', one for each input (`None`: zero,
    /// or not needed). Runs with gradients off.
    ///
    /// # Errors
    /// Whatever the operation fails with; it comes out of [`crate::backward`], as do panics.
    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError>;
}

/// What a forward can ask and say.
#[derive(Debug)]
pub struct Forward<'a> {
    needs_grad: &'a [bool],
    saved: Vec<Tensor>,
    constant: Vec<usize>,
}

impl Forward<'_> {
    /// Whether the gradient of input `index` will be asked for. With gradients off, none is.
    pub fn needs_grad(&self, index: usize) -> bool {
        self.needs_grad[index]
    }

    /// Whether any gradient will be asked for: if not, nothing needs to be saved.
    pub fn any_needs_grad(&self) -> bool {
        self.needs_grad.iter().any(|needs| *needs)
    }

    /// Saves an input or an output for [`Backward::saved`], in this order. An edit made in place
    /// since is then an error.
    ///
    /// Outputs must be saved in this way and not inside the function, else the graph would own
    /// itself and never be freed.
    pub fn save(&mut self, tensor: &Tensor) {
        self.saved.push(tensor.shallow_clone());
    }

    /// Declares that no gradient flows through output `index`.
    pub fn mark_constant(&mut self, index: usize) {
        self.constant.push(index);
    }
}

/// What a backward can ask.
#[derive(Debug)]
pub struct Backward<'a> {
    node: *mut c_void,
    needs: &'a [bool],
    saved: usize,
}

impl Backward<'_> {
    /// Whether the gradient of input `index` is asked for in this call.
    pub fn needs_grad(&self, index: usize) -> bool {
        self.needs[index]
    }

    /// The tensors saved by [`Forward::save`], in that order.
    ///
    /// # Errors
    /// If one was edited in place since.
    pub fn saved(&self) -> Result<Vec<Tensor>, Error> {
        let mut pointers = vec![std::ptr::null_mut(); self.saved];
        // SAFETY: `node` is the node whose backward is running; the bridge fills `pointers` with
        // tensors that are ours.
        check(unsafe { ffi::loract_saved(self.node, pointers.as_mut_ptr(), pointers.len()) })?;
        // SAFETY: each pointer is a new heap-allocated tensor handed over to us.
        Ok(pointers.into_iter().map(|pointer| unsafe { Tensor::from_ptr(pointer) }).collect())
    }
}

/// What a graph node owns.
struct Attached {
    function: Box<dyn Function>,
    name: String,
    saved: usize,
}

/// Runs a custom function and, if an input requires gradients, records it in the graph.
///
/// # Errors
/// [`Error::Forward`] with the function's own error; [`Error::Torch`] if an output is an input
/// itself.
pub fn apply(mut function: impl Function, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
    let recording = grad_enabled();
    let needs_grad: Vec<bool> =
        inputs.iter().map(|input| recording && input.requires_grad()).collect();
    let mut context = Forward { needs_grad: &needs_grad, saved: Vec::new(), constant: Vec::new() };
    let name = function.name();
    let outputs = {
        let _mode = GradMode::disabled();
        function
            .forward(&mut context, inputs)
            .map_err(|source| Error::Forward { function: name.clone(), source })?
    };
    if !context.any_needs_grad() {
        return Ok(outputs);
    }
    let Forward { saved, constant, .. } = context;
    let differentiable: Vec<bool> =
        (0..outputs.len()).map(|index| !constant.contains(&index)).collect();
    let c_name = CString::new(name.replace('\0', " ")).unwrap_or_default();
    let attached = Box::new(Attached { function: Box::new(function), name, saved: saved.len() });
    let (input_pointers, output_pointers) = (pointers(inputs.iter().copied()), pointers(&outputs));
    let saved_pointers = pointers(&saved);
    // SAFETY: all pointers are valid tensors for the length of the call; the node takes `attached`
    // over and drops it once.
    check(unsafe {
        ffi::loract_attach(
            Box::into_raw(attached).cast(),
            c_name.as_ptr(),
            input_pointers.as_ptr(),
            input_pointers.len(),
            output_pointers.as_ptr(),
            differentiable.as_ptr(),
            output_pointers.len(),
            saved_pointers.as_ptr(),
            saved_pointers.len(),
        )
    })?;
    Ok(outputs)
}

/// The text of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

/// Runs Rust code that libtorch called: neither an error nor a panic may unwind into C++, so both
/// become a message.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Result<(), BoxError>) -> *mut c_char {
    let message = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(error)) => format!("{name}: {error}"),
        Err(panic) => format!("{name}: panicked: {}", panic_text(panic.as_ref())),
    };
    CString::new(message.replace('\0', " ")).unwrap_or_default().into_raw()
}

// SAFETY (the four functions below): only the bridge calls them, with pointers it got from
// `Box::into_raw` in this crate, and with arrays of the lengths given.
#[unsafe(no_mangle)]
unsafe extern "C" fn loract_rust_backward(
    function: *mut c_void,
    node: *mut c_void,
    gradients: *const *const C_tensor,
    gradients_length: usize,
    needs: *const bool,
    outputs: *mut *mut C_tensor,
    outputs_length: usize,
) -> *mut c_char {
    // SAFETY: `function` is the `Attached` of a node that is alive during its backward.
    let attached = unsafe { &*function.cast::<Attached>() };
    guard(&format!("backward of {}", attached.name), || {
        // SAFETY: the bridge passes arrays of these lengths; a null gradient is an absent one,
        // others are cloned handles.
        let (gradients, needs, outputs) = unsafe {
            let gradients: Vec<Option<Tensor>> =
                std::slice::from_raw_parts(gradients, gradients_length)
                    .iter()
                    .map(|pointer| {
                        (!pointer.is_null()).then(|| Tensor::clone_from_ptr(pointer.cast_mut()))
                    })
                    .collect();
            let needs = std::slice::from_raw_parts(needs, outputs_length);
            (gradients, needs, std::slice::from_raw_parts_mut(outputs, outputs_length))
        };
        let context = Backward { node, needs, saved: attached.saved };
        let input_grads = attached.function.backward(&context, &gradients)?;
        if input_grads.len() != outputs_length {
            let (expected, got) = (outputs_length, input_grads.len());
            return Err(
                Error::Length { operation: "backward", what: "gradients", expected, got }.into()
            );
        }
        for (slot, input_grad) in outputs.iter_mut().zip(input_grads) {
            if let Some(input_grad) = input_grad {
                *slot = into_pointer(input_grad);
            }
        }
        Ok(())
    })
}

/// Hands a tensor over to C++.
fn into_pointer(tensor: Tensor) -> *mut C_tensor {
    std::mem::ManuallyDrop::new(tensor).as_mut_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn loract_rust_drop_function(function: *mut c_void) {
    // SAFETY: called once with the pointer that `apply` made.
    let attached = unsafe { Box::from_raw(function.cast::<Attached>()) };
    // A panic in a destructor must not cross into C++.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(attached)));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn loract_rust_free_message(message: *mut c_char) {
    // SAFETY: called once with a pointer that `guard` made.
    drop(unsafe { CString::from_raw(message) });
}
