mod dora;
pub(crate) mod footprint;
mod linear_op;

pub(crate) use linear_op::{GradSum, LinearInput, LinearOp};

use tch::Tensor;

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::{Error, Matrix, SavePolicy, SavedActivation, SavedInput, Scope};

/// A linear map `y = x Wᵀ + b`, with or without a LoRA pair.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// `W` `[out, in]`.
    pub weight: Matrix<'a>,
    /// Whether the weight is stored as `Wᵀ` `[in, out]` instead (`Conv1D` of transformers; PEFT's
    /// name for it).
    pub fan_in_fan_out: bool,
    /// `b` `[out]`.
    pub bias: Option<&'a Tensor>,
    /// The pair.
    pub lora: Option<Lora<'a>>,
}

impl<'a> Projection<'a> {
    /// `y = x Wᵀ`, with `weight` `[out, in]`.
    pub fn new(weight: impl Into<Matrix<'a>>) -> Self {
        Self { weight: weight.into(), fan_in_fan_out: false, bias: None, lora: None }
    }
}

/// A low-rank update `y += scale · (dropout(x) Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685). With a magnitude
/// `m` the updated weight is scaled to it row by row (DoRA, arXiv 2402.09353): `y = x W'ᵀ + b` with
/// `W' = m · (W + scale · B A) / ‖W + scale · B A‖`, the norm being a constant to backward. Where
/// `x` is dropped, it is everywhere but in `x Wᵀ`, as in PEFT: `y = x Wᵀ + b + x̂ (W' - W)ᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `A` `[r, in]`.
    pub a: &'a Tensor,
    /// `B` `[out, r]`.
    pub b: &'a Tensor,
    /// `alpha / r`.
    pub scale: f64,
    /// The probability with which an element of the input is dropped, in training.
    pub dropout: f64,
    /// `m` `[out]`.
    pub magnitude: Option<&'a Tensor>,
}

/// Several linear maps of the same input `x` `[.., in]`, to `[.., out]` each: one saved input
/// serves them all.
///
/// Only what a trained weight needs is saved: with all of them frozen and no LoRA, nothing. In
/// backward `dW = (dyᵀ U) V` and `dA = ((dy B)ᵀ U) V` go through the factors `x ≈ U V`; with LoRA
/// dropout the masked input is rebuilt. Where `A` is frozen and `B` is not (LoRA-FA, arXiv
/// 2308.03303), `x Aᵀ` is saved instead of `x`.
///
/// # Errors
/// [`Error::Shape`] if a weight does not fit the input; those of saving.
pub fn project(
    x: &Tensor,
    projections: &[Projection<'_>],
    input: impl Into<SavedInput>,
    scope: &Scope,
) -> Result<Vec<Tensor>, Error> {
    let mut inputs = vec![x];
    let mut ops = Vec::with_capacity(projections.len());
    for (index, projection) in projections.iter().enumerate() {
        ops.push(LinearOp::new(projection, x, &scope.at(index as u64), &mut inputs)?);
    }
    let function = Project { ops, input: input.into(), scope: scope.clone(), saved: None };
    Ok(apply(function, &inputs)?)
}

struct Project {
    ops: Vec<LinearOp>,
    input: SavedInput,
    scope: Scope,
    saved: Option<SavedActivation>,
}

impl Function for Project {
    fn name(&self) -> String {
        "linear".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let x = inputs[0];
        let mut shape = x.size();
        let width = shape.pop().unwrap_or(1);
        let rows = x.f_reshape([-1, width])?;
        let mut outputs = Vec::with_capacity(self.ops.len());
        for op in &mut self.ops {
            let y = op.forward(&rows, inputs, Some((context, &self.scope)))?;
            let mut size = shape.clone();
            size.push(y.size()[1]);
            outputs.push(y.f_view(&size[..])?);
        }
        if self.ops.iter().any(|op| op.reads_input(context)) {
            self.saved = Some(self.input.save(&rows, &self.scope)?);
        }
        // The source's own share goes: only what is read is held.
        self.input = SavedInput::Policy(SavePolicy::Exact);
        if context.any_needs_grad() {
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        Ok(outputs)
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let parameters = context.saved()?;
        let mut grad_inputs: Vec<Option<Tensor>> = (0..=parameters.len()).map(|_| None).collect();
        let mut sum = GradSum::default();
        let mut shape = Vec::new();
        for (op, gradient) in self.ops.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            shape = gradient.size();
            let out = shape.pop().unwrap_or(1);
            let dy = gradient.f_reshape([-1, out])?;
            let d_input = context.needs_grad(0).then_some(&mut sum);
            op.backward(
                &dy,
                &parameters,
                &LinearInput::Saved(self.saved.as_ref()),
                context,
                &mut grad_inputs,
                d_input,
            )?;
        }
        grad_inputs[0] = match sum.into_inner() {
            Some(sum) => {
                shape.push(sum.size()[1]);
                Some(sum.f_view(&shape[..])?)
            }
            None => None,
        };
        Ok(grad_inputs)
    }
}
