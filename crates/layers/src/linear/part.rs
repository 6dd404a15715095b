use super::Projection;
use crate::{Error, Kept, Scope, dropout};
use autograd::{Backward, BoxError, Forward};
use tch::{TchError, Tensor};

/// One projection inside a function: where its tensors stand among the function's inputs, of which the first is no parameter.
pub(crate) struct Part {
    weight: usize,
    fan_in_fan_out: bool,
    bias: Option<usize>,
    lora: Option<Pair>,
}

struct Pair {
    a: usize,
    b: usize,
    scale: f64,
    dropout: f64,
    seed: u64,
}

impl Pair {
    /// `x` with elements dropped and the rest scaled up; the same each time.
    fn drop_elements(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_mul(&dropout::mask(x, self.dropout, self.seed)?)?)
    }
}

/// The rows that went in, as backward finds them.
pub(crate) enum Input<'a> {
    /// Kept, if a weight needed them.
    Kept(Option<&'a Kept>),
    /// Rebuilt already.
    Rows(&'a Tensor),
}

impl Input<'_> {
    fn kept<'a>(kept: &Option<&'a Kept>) -> Result<&'a Kept, BoxError> {
        kept.ok_or_else(|| "the input was not kept, as no weight needed it in forward".into())
    }

    fn contract(&self, gradient: &Tensor) -> Result<Tensor, BoxError> {
        match self {
            Self::Kept(kept) => Ok(Self::kept(kept)?.contract(gradient)?),
            Self::Rows(rows) => Ok(gradient.f_tr()?.f_matmul(rows)?),
        }
    }

    fn project(&self, weight: &Tensor) -> Result<Tensor, BoxError> {
        match self {
            Self::Kept(kept) => Ok(Self::kept(kept)?.project(weight)?),
            Self::Rows(rows) => Ok(rows.f_matmul(&weight.f_tr()?)?),
        }
    }

    fn rows(&self, width: i64) -> Result<Tensor, BoxError> {
        match self {
            Self::Kept(kept) => Ok(Self::kept(kept)?.restore()?.f_reshape([-1, width])?),
            Self::Rows(rows) => Ok(rows.shallow_clone()),
        }
    }
}

impl Part {
    /// Puts the tensors of `projection`, which maps `x`, behind the other `inputs`; `scope` is its own.
    pub fn new<'a>(projection: &Projection<'a>, x: &Tensor, scope: &Scope, inputs: &mut Vec<&'a Tensor>) -> Result<Self, Error> {
        let (width, size) = (x.size().last().copied().unwrap_or(0), projection.weight.size());
        let fan_in = usize::from(!projection.fan_in_fan_out);
        if size.len() != 2 || size[fan_in] != width {
            let shape = if projection.fan_in_fan_out { format!("[{width}, out]") } else { format!("[out, {width}]") };
            return Err(Error::Shape { operation: "linear", expected: format!("a weight {shape}"), got: size });
        }
        let mut slot = |tensor| {
            inputs.push(tensor);
            inputs.len() - 1
        };
        Ok(Self {
            weight: slot(projection.weight),
            fan_in_fan_out: projection.fan_in_fan_out,
            bias: projection.bias.map(&mut slot),
            lora: projection.lora.map(|lora| Pair {
                a: slot(lora.a),
                b: slot(lora.b),
                scale: lora.scale,
                dropout: if scope.is_training() { lora.dropout } else { 0.0 },
                seed: scope.seed(),
            }),
        })
    }

    /// Whether the input is needed again in backward: for a weight, or a pair.
    pub fn reads_input(&self, context: &Forward<'_>) -> bool {
        let lora = self.lora.as_ref().is_some_and(|pair| context.needs_grad(pair.a) || context.needs_grad(pair.b));
        lora || context.needs_grad(self.weight)
    }

    /// `[rows, in]` to `[rows, out]`, a new tensor.
    pub fn forward(&self, rows: &Tensor, inputs: &[&Tensor]) -> Result<Tensor, BoxError> {
        let weight = inputs[self.weight];
        let transposed = if self.fan_in_fan_out { weight.shallow_clone() } else { weight.f_tr()? };
        let mut y = match self.bias {
            Some(bias) => Tensor::f_addmm(inputs[bias], rows, &transposed)?,
            None => rows.f_matmul(&transposed)?,
        };
        if let Some(pair) = &self.lora {
            let (a, b) = (inputs[pair.a].f_to_kind(rows.kind())?, inputs[pair.b].f_to_kind(rows.kind())?);
            let dropped = if pair.dropout > 0.0 { pair.drop_elements(rows)? } else { rows.shallow_clone() };
            let small = dropped.f_matmul(&a.f_tr()?)?.f_mul_scalar(pair.scale)?;
            y = y.f_addmm_(&small, &b.f_tr()?)?;
        }
        Ok(y)
    }

    /// From the output's gradient `dy` `[rows, out]`: the parameters' gradients into their `answers`, the input's added to `d_input` if that
    /// is wanted. `parameters` are the function's inputs but the first.
    pub fn backward(
        &self,
        dy: &Tensor,
        parameters: &[Tensor],
        input: &Input<'_>,
        context: &Backward<'_>,
        answers: &mut [Option<Tensor>],
        mut d_input: Option<&mut Sum>,
    ) -> Result<(), BoxError> {
        let parameter = |slot: usize| &parameters[slot - 1];
        if let Some(sum) = &mut d_input {
            let weight = parameter(self.weight);
            let weight = if self.fan_in_fan_out { weight.f_tr()? } else { weight.shallow_clone() };
            sum.add_product(dy, &weight)?;
        }
        if context.needs_grad(self.weight) {
            let gradient = input.contract(dy)?;
            answers[self.weight] = Some(if self.fan_in_fan_out { gradient.f_tr()?.f_contiguous()? } else { gradient });
        }
        if let Some(bias) = self.bias.filter(|bias| context.needs_grad(*bias)) {
            answers[bias] = Some(dy.f_sum_dim_intlist(0, false, dy.kind())?);
        }
        let Some(pair) = &self.lora else { return Ok(()) };
        let (a, b) = (parameter(pair.a).f_to_kind(dy.kind())?, parameter(pair.b).f_to_kind(dy.kind())?);
        let small = dy.f_matmul(&b)?.f_mul_scalar(pair.scale)?;
        let dropped = if pair.dropout > 0.0 && (context.needs_grad(pair.a) || context.needs_grad(pair.b)) {
            Some(pair.drop_elements(&input.rows(a.size()[1])?)?)
        } else {
            None
        };
        if context.needs_grad(pair.a) {
            answers[pair.a] = Some(match &dropped {
                Some(dropped) => small.f_tr()?.f_matmul(dropped)?,
                None => input.contract(&small)?,
            });
        }
        if context.needs_grad(pair.b) {
            let projected = match &dropped {
                Some(dropped) => dropped.f_matmul(&a.f_tr()?)?,
                None => input.project(&a)?,
            };
            answers[pair.b] = Some(dy.f_tr()?.f_matmul(&projected.f_mul_scalar(pair.scale)?)?);
        }
        if let Some(sum) = d_input {
            if pair.dropout > 0.0 {
                sum.add(pair.drop_elements(&small.f_matmul(&a)?)?)?;
            } else {
                sum.add_product(&small, &a)?;
            }
        }
        Ok(())
    }
}

/// A gradient that grows in place.
#[derive(Default)]
pub(crate) struct Sum(Option<Tensor>);

impl Sum {
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
