use std::cell::OnceCell;
use std::sync::Arc;

use tch::{TchError, Tensor};

use autograd::{Backward, BoxError, Forward};

use super::{Projection, dora};
use crate::{Error, Matrix, QuantizedWeight, SavePolicy, SavedActivation, Scope, dropout};

/// One projection inside a function: where its tensors stand among the function's inputs, of which
/// the first is no parameter.
pub(crate) struct LinearOp {
    weight: Weight,
    fan_in_fan_out: bool,
    bias: Option<usize>,
    lora: Option<LoraSlots>,
}

/// Where the weight is.
enum Weight {
    /// Among the inputs.
    Slot(usize),
    /// Here, quantized: it is frozen.
    Quantized(Arc<QuantizedWeight>),
}

impl Weight {
    fn slot(&self) -> Option<usize> {
        match self {
            Self::Slot(slot) => Some(*slot),
            Self::Quantized(_) => None,
        }
    }
}

struct LoraSlots {
    a: usize,
    b: usize,
    magnitude: Option<usize>,
    scale: f64,
    dropout: f64,
    seed: u64,
    /// `scale · dropout(rows) Aᵀ`, if it is saved instead of the rows.
    projected: Option<SavedActivation>,
}

impl LoraSlots {
    /// Where its tensors stand.
    fn slots(&self) -> impl Iterator<Item = usize> {
        [self.a, self.b].into_iter().chain(self.magnitude)
    }

    /// `x` with elements dropped and the rest scaled up; the same each time.
    fn drop_elements(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_mul(&dropout::mask(x, self.dropout, self.seed)?)?)
    }

    /// What `dy` is past the magnitude, given a weight `[out, in]`.
    fn output_grads(
        &self,
        dy: &Tensor,
        weight: &Expanded<'_>,
        parameters: &[Tensor],
        context: &Backward<'_>,
    ) -> Result<OutputGrads, BoxError> {
        let Some(magnitude) = self.magnitude else {
            return Ok(OutputGrads {
                pair: dy.shallow_clone(),
                weight: dy.shallow_clone(),
                dropped: None,
                norms: None,
            });
        };
        let norms = dora::norms(
            weight.get()?,
            &parameters[self.a - 1],
            &parameters[self.b - 1],
            self.scale,
        )?;
        let gain = dora::gain(&parameters[magnitude - 1], &norms)?;
        let pair = dora::scaled(dy, &gain)?;
        let norms = context.needs_grad(magnitude).then_some(norms);
        if self.dropout > 0.0 {
            let dropped = Some(dora::scaled(dy, &gain.f_sub_scalar(1.0)?)?);
            return Ok(OutputGrads { pair, weight: dy.shallow_clone(), dropped, norms });
        }
        Ok(OutputGrads { weight: pair.shallow_clone(), pair, dropped: None, norms })
    }
}

/// The rows that went in, as backward finds them.
pub(crate) enum LinearInput<'a> {
    /// Kept, if a weight needed them.
    Saved(Option<&'a SavedActivation>),
    /// Rebuilt already.
    Rows(&'a Tensor),
}

impl LinearInput<'_> {
    fn saved<'a>(saved: &Option<&'a SavedActivation>) -> Result<&'a SavedActivation, BoxError> {
        saved.ok_or_else(|| "the input was not saved, as no weight needed it in forward".into())
    }

    fn contract(&self, gradient: &Tensor) -> Result<Tensor, BoxError> {
        match self {
            Self::Saved(saved) => Ok(Self::saved(saved)?.contract(gradient)?),
            Self::Rows(rows) => Ok(gradient.f_tr()?.f_matmul(rows)?),
        }
    }

    fn project(&self, weight: &Tensor) -> Result<Tensor, BoxError> {
        match self {
            Self::Saved(saved) => Ok(Self::saved(saved)?.project(weight)?),
            Self::Rows(rows) => Ok(rows.f_matmul(&weight.f_tr()?)?),
        }
    }

    fn rows(&self, width: i64) -> Result<Tensor, BoxError> {
        match self {
            Self::Saved(saved) => Ok(Self::saved(saved)?.restore()?.f_reshape([-1, width])?),
            Self::Rows(rows) => Ok(rows.shallow_clone()),
        }
    }
}

impl LinearOp {
    /// Puts the tensors of `projection`, which maps `x`, after the other `inputs`; `scope` is its
    /// own.
    pub fn new<'a>(
        projection: &Projection<'a>,
        x: &Tensor,
        scope: &Scope,
        inputs: &mut Vec<&'a Tensor>,
    ) -> Result<Self, Error> {
        let (width, size) = (x.size().last().copied().unwrap_or(0), projection.weight.size());
        let fan_in = usize::from(!projection.fan_in_fan_out);
        if size.len() != 2 || size[fan_in] != width {
            let shape = if projection.fan_in_fan_out {
                format!("[{width}, out]")
            } else {
                format!("[out, {width}]")
            };
            return Err(Error::Shape {
                operation: "linear",
                expected: format!("a weight {shape}"),
                got: size,
            });
        }
        let mut slot = |tensor| {
            inputs.push(tensor);
            inputs.len() - 1
        };
        Ok(Self {
            weight: match projection.weight {
                Matrix::Dense(weight) => Weight::Slot(slot(weight)),
                Matrix::Quantized(weight) => Weight::Quantized(weight.clone()),
            },
            fan_in_fan_out: projection.fan_in_fan_out,
            bias: projection.bias.map(&mut slot),
            lora: projection.lora.map(|lora| LoraSlots {
                a: slot(lora.a),
                b: slot(lora.b),
                magnitude: lora.magnitude.map(&mut slot),
                scale: lora.scale,
                dropout: if scope.is_training() { lora.dropout } else { 0.0 },
                seed: scope.seed(),
                projected: None,
            }),
        })
    }

    /// Whether the input is needed again in backward, after [`LinearOp::forward`]: for a weight, or
    /// a pair.
    pub fn reads_input(&self, context: &Forward<'_>) -> bool {
        let pair = self.lora.as_ref().filter(|pair| pair.projected.is_none());
        let lora = pair.is_some_and(|pair| pair.slots().any(|slot| context.needs_grad(slot)));
        lora || self.weight.slot().is_some_and(|slot| context.needs_grad(slot))
    }

    /// `[rows, in]` to `[rows, out]`, a new tensor. If A is frozen and all that backward needs is
    /// `rows Aᵀ`, that is saved at the scope given.
    pub fn forward(
        &mut self,
        rows: &Tensor,
        inputs: &[&Tensor],
        saving: Option<(&Forward<'_>, &Scope)>,
    ) -> Result<Tensor, BoxError> {
        let weight = self.weight(|slot| inputs[slot])?;
        let transposed = weight.f_tr()?;
        let affine = |bias: Option<usize>| match bias {
            Some(bias) => Tensor::f_addmm(inputs[bias], rows, &transposed),
            None => rows.f_matmul(&transposed),
        };
        let (own_weight, bias) = (self.weight.slot(), self.bias);
        let Some(pair) = &mut self.lora else { return Ok(affine(bias)?) };
        let (a, b) =
            (inputs[pair.a].f_to_kind(rows.kind())?, inputs[pair.b].f_to_kind(rows.kind())?);
        let dropped =
            if pair.dropout > 0.0 { pair.drop_elements(rows)? } else { rows.shallow_clone() };
        let small = dropped.f_matmul(&a.f_tr()?)?.f_mul_scalar(pair.scale)?;
        let Some(magnitude) = pair.magnitude else {
            if let Some((context, scope)) = saving
                && !context.needs_grad(pair.a)
                && !own_weight.is_some_and(|slot| context.needs_grad(slot))
                && context.needs_grad(pair.b)
                && a.size()[0] < a.size()[1]
            {
                pair.projected = Some(SavePolicy::Exact.save(&small, scope)?);
            }
            return Ok(affine(bias)?.f_addmm_(&small, &b.f_tr()?)?);
        };
        let gain = dora::gain(
            inputs[magnitude],
            &dora::norms(&weight, inputs[pair.a], inputs[pair.b], pair.scale)?,
        )?;
        if pair.dropout > 0.0 {
            let base = dora::scaled(&dropped.f_matmul(&transposed)?, &gain.f_sub_scalar(1.0)?)?;
            let low_rank = dora::scaled(&small.f_matmul(&b.f_tr()?)?, &gain)?;
            return Ok(affine(bias)?.f_add_(&base)?.f_add_(&low_rank)?);
        }
        let y = dora::scaled(&affine(None)?.f_addmm_(&small, &b.f_tr()?)?, &gain)?;
        match bias {
            Some(bias) => Ok(y.f_add(inputs[bias])?),
            None => Ok(y),
        }
    }

    /// The weight `[out, in]`: `at` its slot, or expanded.
    fn weight<'a>(&self, at: impl FnOnce(usize) -> &'a Tensor) -> Result<Tensor, TchError> {
        let weight = match &self.weight {
            Weight::Slot(slot) => at(*slot).shallow_clone(),
            Weight::Quantized(weight) => weight.expand()?,
        };
        if self.fan_in_fan_out { weight.f_tr() } else { Ok(weight) }
    }

    /// From the output's gradient `dy` `[rows, out]`: the parameters' gradients into their
    /// `grad_inputs`, the input's added to `d_input` if that is wanted. `parameters` are the
    /// function's inputs but the first.
    pub fn backward(
        &self,
        dy: &Tensor,
        parameters: &[Tensor],
        input: &LinearInput<'_>,
        context: &Backward<'_>,
        grad_inputs: &mut [Option<Tensor>],
        mut d_input: Option<&mut GradSum>,
    ) -> Result<(), BoxError> {
        let parameter = |slot: usize| &parameters[slot - 1];
        if let Some(bias) = self.bias.filter(|bias| context.needs_grad(*bias)) {
            grad_inputs[bias] = Some(dy.f_sum_dim_intlist(0, false, dy.kind())?);
        }
        let weight = Expanded { op: self, parameters, found: OnceCell::new() };
        let output_grads = match &self.lora {
            Some(pair) => pair.output_grads(dy, &weight, parameters, context)?,
            None => OutputGrads {
                pair: dy.shallow_clone(),
                weight: dy.shallow_clone(),
                dropped: None,
                norms: None,
            },
        };
        if let Some(sum) = &mut d_input {
            sum.add_product(&output_grads.weight, weight.get()?)?;
        }
        let trained = self.weight.slot().filter(|slot| context.needs_grad(*slot));
        let dropped = match &self.lora {
            Some(pair) if pair.dropout > 0.0 && pair.projected.is_none() => {
                let is_read = pair.slots().any(|slot| context.needs_grad(slot))
                    || (trained.is_some() && output_grads.dropped.is_some());
                if is_read {
                    Some(pair.drop_elements(&input.rows(parameter(pair.a).size()[1])?)?)
                } else {
                    None
                }
            }
            _ => None,
        };
        if let Some(slot) = trained {
            let mut gradient = input.contract(&output_grads.weight)?;
            if let (Some(more), Some(dropped)) = (&output_grads.dropped, &dropped) {
                gradient = gradient.f_add(&more.f_tr()?.f_matmul(dropped)?)?;
            }
            grad_inputs[slot] =
                Some(if self.fan_in_fan_out { gradient.f_tr()?.f_contiguous()? } else { gradient });
        }
        match &self.lora {
            Some(pair) => {
                let lora = LoraBackward {
                    pair,
                    dy,
                    output_grads: &output_grads,
                    weight: &weight,
                    input,
                    dropped: dropped.as_ref(),
                };
                lora.run(parameters, context, grad_inputs, d_input)
            }
            None => Ok(()),
        }
    }
}

/// The backward of a LoRA pair.
struct LoraBackward<'a> {
    pair: &'a LoraSlots,
    /// The output's gradient `[rows, out]`.
    dy: &'a Tensor,
    output_grads: &'a OutputGrads,
    weight: &'a Expanded<'a>,
    input: &'a LinearInput<'a>,
    /// The input with elements dropped, if something reads it.
    dropped: Option<&'a Tensor>,
}

impl LoraBackward<'_> {
    /// The gradients of the pair's parameters into their `grad_inputs`, the input's added to
    /// `d_input` if that is wanted.
    fn run(
        &self,
        parameters: &[Tensor],
        context: &Backward<'_>,
        grad_inputs: &mut [Option<Tensor>],
        d_input: Option<&mut GradSum>,
    ) -> Result<(), BoxError> {
        let (pair, kind) = (self.pair, self.dy.kind());
        let (a, b) =
            (parameters[pair.a - 1].f_to_kind(kind)?, parameters[pair.b - 1].f_to_kind(kind)?);
        let small = self.output_grads.pair.f_matmul(&b)?.f_mul_scalar(pair.scale)?;
        if context.needs_grad(pair.a) {
            grad_inputs[pair.a] = Some(match self.dropped {
                Some(dropped) => small.f_tr()?.f_matmul(dropped)?,
                None => self.input.contract(&small)?,
            });
        }
        self.b_and_magnitude(&a, &b, context, grad_inputs)?;
        match d_input {
            Some(sum) => self.add_input_grad(&small, &a, sum),
            None => Ok(()),
        }
    }

    /// The input, with elements dropped where the pair drops them, times a weight `[m, in]`.
    fn project(&self, weight: &Tensor) -> Result<Tensor, BoxError> {
        match self.dropped {
            Some(dropped) => Ok(dropped.f_matmul(&weight.f_tr()?)?),
            None => self.input.project(weight),
        }
    }

    fn b_and_magnitude(
        &self,
        a: &Tensor,
        b: &Tensor,
        context: &Backward<'_>,
        grad_inputs: &mut [Option<Tensor>],
    ) -> Result<(), BoxError> {
        let (pair, output_grads) = (self.pair, self.output_grads);
        let magnitude = pair.magnitude.filter(|slot| context.needs_grad(*slot));
        if !context.needs_grad(pair.b) && magnitude.is_none() {
            return Ok(());
        }
        let projected = match &pair.projected {
            Some(saved) => saved.restore()?,
            None => self.project(a)?.f_mul_scalar(pair.scale)?,
        };
        if context.needs_grad(pair.b) {
            grad_inputs[pair.b] = Some(output_grads.pair.f_tr()?.f_matmul(&projected)?);
        }
        if let (Some(slot), Some(norms)) = (magnitude, &output_grads.norms) {
            let unscaled = self.project(self.weight.get()?)?.f_addmm_(&projected, &b.f_tr()?)?;
            let along = self.dy.f_mul(&unscaled)?.f_sum_dim_intlist(0, false, norms.kind())?;
            grad_inputs[slot] =
                Some(along.f_div(&norms.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?);
        }
        Ok(())
    }

    fn add_input_grad(
        &self,
        small: &Tensor,
        a: &Tensor,
        sum: &mut GradSum,
    ) -> Result<(), BoxError> {
        if self.pair.dropout <= 0.0 {
            return Ok(sum.add_product(small, a)?);
        }
        let mut through = small.f_matmul(a)?;
        if let Some(more) = &self.output_grads.dropped {
            through = through.f_addmm_(more, self.weight.get()?)?;
        }
        Ok(sum.add(self.pair.drop_elements(&through)?)?)
    }
}

/// The weight `[out, in]` in backward, expanded where it is first needed.
struct Expanded<'a> {
    op: &'a LinearOp,
    parameters: &'a [Tensor],
    found: OnceCell<Tensor>,
}

impl Expanded<'_> {
    fn get(&self) -> Result<&Tensor, TchError> {
        match self.found.get() {
            Some(weight) => Ok(weight),
            None => {
                let weight = self.op.weight(|slot| &self.parameters[slot - 1])?;
                Ok(self.found.get_or_init(|| weight))
            }
        }
    }
}

/// The output's gradient `[rows, out]` as the parts of the map see it.
struct OutputGrads {
    /// At the output of the pair.
    pair: Tensor,
    /// At the output of the weight, whose input is whole.
    weight: Tensor,
    /// At the output of the weight where its input is the dropped one.
    dropped: Option<Tensor>,
    /// The norms of the updated weight's rows, if they are divided by.
    norms: Option<Tensor>,
}

/// A gradient that grows in place.
#[derive(Default)]
pub(crate) struct GradSum(Option<Tensor>);

impl GradSum {
    pub fn into_inner(self) -> Option<Tensor> {
        self.0
    }

    fn add(&mut self, term: Tensor) -> Result<(), TchError> {
        self.0 = Some(match self.0.take() {
            Some(mut sum) => sum.f_add_(&term)?,
            None => term,
        });
        Ok(())
    }

    fn add_product(&mut self, gradient: &Tensor, weight: &Tensor) -> Result<(), TchError> {
        self.0 = Some(match self.0.take() {
            Some(mut sum) => sum.f_addmm_(gradient, weight)?,
            None => gradient.f_matmul(weight)?,
        });
        Ok(())
    }
}
