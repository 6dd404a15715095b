use crate::{Error, Keep, Kept, Scope};
use autograd::random::{Law, draw};
use autograd::{Backward, BoxError, Forward, Function, apply};
use tch::Tensor;

/// A linear map `y = x Wᵀ + b`, with or without a LoRA pair beside it.
#[derive(Clone, Copy, Debug)]
pub struct Projection<'a> {
    /// `W` `[out, in]`.
    pub weight: &'a Tensor,
    /// `b` `[out]`.
    pub bias: Option<&'a Tensor>,
    /// The pair.
    pub lora: Option<Lora<'a>>,
}

/// A low-rank update `y += scale · (dropout(x) Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685).
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
}

/// How the input of [`project`] is kept.
#[derive(Clone, Debug)]
pub enum Source {
    /// As this policy says.
    Keep(Keep),
    /// It is kept already, by the operation that made it.
    Kept(Kept),
}

impl From<Keep> for Source {
    fn from(keep: Keep) -> Self {
        Self::Keep(keep)
    }
}

/// Several linear maps of the same input `x` `[.., in]`, to `[.., out]` each: one kept input serves them all.
///
/// Kept is only what a trained weight needs: with all of them frozen and no LoRA, nothing. In backward `dW = (dyᵀ U) V` and
/// `dA = ((dy B)ᵀ U) V` go through the factors `x ≈ U V`; with LoRA dropout the masked input is rebuilt.
///
/// # Errors
/// [`Error::Shape`] if a weight does not fit the input; those of keeping.
pub fn project(x: &Tensor, projections: &[Projection<'_>], source: impl Into<Source>, scope: &Scope) -> Result<Vec<Tensor>, Error> {
    let width = x.size().last().copied().unwrap_or(0);
    let mut inputs = vec![x];
    let mut parts = Vec::with_capacity(projections.len());
    for (index, projection) in projections.iter().enumerate() {
        let size = projection.weight.size();
        if size.len() != 2 || size[1] != width {
            return Err(Error::Shape { operation: "linear", expected: format!("a weight [out, {width}]"), got: size });
        }
        let mut slot = |tensor| {
            inputs.push(tensor);
            inputs.len() - 1
        };
        parts.push(Part {
            weight: slot(projection.weight),
            bias: projection.bias.map(&mut slot),
            lora: projection.lora.map(|lora| Pair {
                a: slot(lora.a),
                b: slot(lora.b),
                scale: lora.scale,
                dropout: if scope.is_training() { lora.dropout } else { 0.0 },
                seed: scope.at(index as u64).seed(),
            }),
        });
    }
    let function = Project { parts, source: source.into(), scope: scope.clone(), kept: None };
    Ok(apply(function, &inputs)?)
}

/// Where the tensors of one projection stand among the function's inputs (0 is `x`).
struct Part {
    weight: usize,
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
        let kept = 1.0 - self.dropout;
        let mask = draw(Law::Bernoulli(kept), &x.size(), x.kind(), x.device(), self.seed)?;
        Ok(x.f_mul(&mask.f_mul_scalar(if kept > 0.0 { 1.0 / kept } else { 0.0 })?)?)
    }
}

struct Project {
    parts: Vec<Part>,
    source: Source,
    scope: Scope,
    kept: Option<Kept>,
}

impl Function for Project {
    fn name(&self) -> String {
        "linear".into()
    }

    fn forward(&mut self, context: &mut Forward<'_>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let x = inputs[0];
        let mut shape = x.size();
        let width = shape.pop().unwrap_or(1);
        let rows = x.f_reshape([-1, width])?;
        let mut outputs = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let weight = inputs[part.weight];
            let mut y = match part.bias {
                Some(bias) => Tensor::f_addmm(inputs[bias], &rows, &weight.f_tr()?)?,
                None => rows.f_matmul(&weight.f_tr()?)?,
            };
            if let Some(pair) = &part.lora {
                let (a, b) = (inputs[pair.a].f_to_kind(x.kind())?, inputs[pair.b].f_to_kind(x.kind())?);
                let dropped = if pair.dropout > 0.0 { pair.drop_elements(&rows)? } else { rows.shallow_clone() };
                let small = dropped.f_matmul(&a.f_tr()?)?.f_mul_scalar(pair.scale)?;
                y = y.f_addmm_(&small, &b.f_tr()?)?;
            }
            let mut size = shape.clone();
            size.push(weight.size()[0]);
            outputs.push(y.f_view(&size[..])?);
        }
        let reads_input = self.parts.iter().any(|part| {
            let lora = part.lora.as_ref().is_some_and(|pair| context.needs_grad(pair.a) || context.needs_grad(pair.b));
            lora || context.needs_grad(part.weight)
        });
        if reads_input {
            self.kept = Some(match &self.source {
                Source::Keep(keep) => keep.keep(&rows, &self.scope)?,
                Source::Kept(kept) => kept.clone(),
            });
        }
        // The source's own share goes: only what is read is held.
        self.source = Source::Keep(Keep::Exact);
        if context.any_needs_grad() {
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        Ok(outputs)
    }

    fn backward(&self, context: &Backward<'_>, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let parameters = context.saved()?;
        let parameter = |slot: usize| &parameters[slot - 1];
        let mut answers: Vec<Option<Tensor>> = (0..=parameters.len()).map(|_| None).collect();
        let mut input = Sum(None);
        let mut shape = Vec::new();
        for (part, gradient) in self.parts.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            shape = gradient.size();
            let out = shape.pop().unwrap_or(1);
            let dy = gradient.f_reshape([-1, out])?;
            if context.needs_grad(0) {
                input.add_product(&dy, parameter(part.weight))?;
            }
            if context.needs_grad(part.weight) {
                answers[part.weight] = Some(self.kept()?.contract(&dy)?);
            }
            if let Some(bias) = part.bias.filter(|bias| context.needs_grad(*bias)) {
                answers[bias] = Some(dy.f_sum_dim_intlist(0, false, dy.kind())?);
            }
            let Some(pair) = &part.lora else { continue };
            let (a, b) = (parameter(pair.a).f_to_kind(dy.kind())?, parameter(pair.b).f_to_kind(dy.kind())?);
            let small = dy.f_matmul(&b)?.f_mul_scalar(pair.scale)?;
            let dropped = if pair.dropout > 0.0 && (context.needs_grad(pair.a) || context.needs_grad(pair.b)) {
                let width = a.size()[1];
                Some(pair.drop_elements(&self.kept()?.restore()?.f_reshape([-1, width])?)?)
            } else {
                None
            };
            if context.needs_grad(pair.a) {
                answers[pair.a] = Some(match &dropped {
                    Some(dropped) => small.f_tr()?.f_matmul(dropped)?,
                    None => self.kept()?.contract(&small)?,
                });
            }
            if context.needs_grad(pair.b) {
                let projected = match &dropped {
                    Some(dropped) => dropped.f_matmul(&a.f_tr()?)?,
                    None => self.kept()?.project(&a)?,
                };
                answers[pair.b] = Some(dy.f_tr()?.f_matmul(&projected.f_mul_scalar(pair.scale)?)?);
            }
            if context.needs_grad(0) {
                if pair.dropout > 0.0 {
                    input.add(pair.drop_elements(&small.f_matmul(&a)?)?)?;
                } else {
                    input.add_product(&small, &a)?;
                }
            }
        }
        answers[0] = match input.0 {
            Some(sum) => {
                shape.push(sum.size()[1]);
                Some(sum.f_view(&shape[..])?)
            }
            None => None,
        };
        Ok(answers)
    }
}

/// A gradient that grows in place.
struct Sum(Option<Tensor>);

impl Sum {
    fn add(&mut self, term: Tensor) -> Result<(), tch::TchError> {
        self.0 = Some(match self.0.take() {
            Some(mut sum) => sum.f_add_(&term)?,
            None => term,
        });
        Ok(())
    }

    fn add_product(&mut self, gradient: &Tensor, weight: &Tensor) -> Result<(), tch::TchError> {
        self.0 = Some(match self.0.take() {
            Some(mut sum) => sum.f_addmm_(gradient, weight)?,
            None => gradient.f_matmul(weight)?,
        });
        Ok(())
    }
}

impl Project {
    fn kept(&self) -> Result<&Kept, BoxError> {
        self.kept.as_ref().ok_or_else(|| "the input was not kept, as no weight needed it in forward".into())
    }
}
