//! The linear maps of a mixture of experts. Rows are sorted by expert, so that what all experts
//! save at a site is one tensor.

use tch::{Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::linear::{GradSum, LinearInput, LinearOp};
use crate::{Error, Projection, SavePolicy, SavedActivation, SavedInput, Scope, Site};

/// Which tokens go to which expert: one row for each pair of them, sorted by expert.
#[derive(Debug)]
pub struct Dispatch {
    /// The token of each row, `[rows]`.
    tokens: Tensor,
    /// Each row's place among the pairs as the router gave them, `[rows]`.
    pairs: Tensor,
    /// Where each expert's rows begin, and the end.
    starts: Vec<i64>,
}

impl Dispatch {
    /// From the `experts` chosen `[tokens, per_token]` (integers) out of `count`. Makes the host
    /// wait for a GPU: it must know how many rows each expert has.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(experts: &Tensor, count: i64) -> Result<Self, Error> {
        let per_token = experts.size()[1];
        let flat = experts.f_reshape([-1])?;
        let pairs = flat.f_argsort_stable(true, 0, false)?;
        let tokens = pairs.f_div_scalar_mode(per_token, "floor")?.f_to_kind(Kind::Int64)?;
        let sizes = Vec::<i64>::try_from(
            flat.f_bincount::<Tensor>(None, count)?.f_to_device(tch::Device::Cpu)?,
        )?;
        let mut starts = vec![0];
        sizes.iter().for_each(|size| starts.push(starts[starts.len() - 1] + size));
        Ok(Self { tokens, pairs, starts })
    }

    fn shallow_clone(&self) -> Self {
        Self {
            tokens: self.tokens.shallow_clone(),
            pairs: self.pairs.shallow_clone(),
            starts: self.starts.clone(),
        }
    }

    /// The first row and the number of rows of an expert.
    fn rows_of(&self, expert: usize) -> (i64, i64) {
        let starts = &self.starts;
        (starts[expert], starts[expert + 1] - starts[expert])
    }

    fn rows(&self) -> i64 {
        self.tokens.size()[0]
    }

    fn check(&self, operation: &'static str, experts: usize) -> Result<(), Error> {
        if experts + 1 == self.starts.len() {
            return Ok(());
        }
        Err(Error::Shape {
            operation,
            expected: format!("{} experts", self.starts.len() - 1),
            got: vec![experts as i64],
        })
    }
}

/// The maps into each expert's inner width: `x` `[tokens, in]` to one `[rows, out]` for each of the
/// maps that `experts` have (all as many, of the same shapes), the rows being those of `dispatch`.
///
/// `x` is saved once for all experts, if a weight needs it.
///
/// # Errors
/// [`Error::Shape`] if something does not fit; those of saving.
pub fn expert_inputs(
    x: &Tensor,
    experts: &[Vec<Projection<'_>>],
    dispatch: &Dispatch,
    input: impl Into<SavedInput>,
    scope: &Scope,
) -> Result<Vec<Tensor>, Error> {
    dispatch.check("expert_inputs", experts.len())?;
    let mut inputs = vec![x];
    let ops = ops(experts, x, scope, &mut inputs)?;
    let function = ExpertInputs {
        ops,
        dispatch: dispatch.shallow_clone(),
        input: input.into(),
        scope: scope.clone(),
        shape: x.size(),
        saved: None,
    };
    Ok(apply(function, &inputs)?)
}

/// The parts of all projections, by expert, each with a random stream of its own.
fn ops<'a>(
    experts: &[Vec<Projection<'a>>],
    x: &Tensor,
    scope: &Scope,
    inputs: &mut Vec<&'a Tensor>,
) -> Result<Vec<Vec<LinearOp>>, Error> {
    let mut stream = 0;
    let mut one = |projection: &Projection<'a>| {
        stream += 1;
        LinearOp::new(projection, x, &scope.at(stream), inputs)
    };
    experts.iter().map(|maps| maps.iter().map(&mut one).collect()).collect()
}

struct ExpertInputs {
    ops: Vec<Vec<LinearOp>>,
    dispatch: Dispatch,
    input: SavedInput,
    scope: Scope,
    shape: Vec<i64>,
    saved: Option<SavedActivation>,
}

impl Function for ExpertInputs {
    fn name(&self) -> String {
        "expert inputs".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let x = inputs[0];
        let rows = x.f_index_select(0, &self.dispatch.tokens)?;
        let mut outputs: Vec<Vec<Tensor>> = (0..self.ops[0].len()).map(|_| Vec::new()).collect();
        for (expert, maps) in self.ops.iter_mut().enumerate() {
            let (first, count) = self.dispatch.rows_of(expert);
            let own = rows.f_narrow(0, first, count)?;
            for (op, outputs) in maps.iter_mut().zip(&mut outputs) {
                outputs.push(op.forward(&own, inputs, Some((context, &self.scope)))?);
            }
        }
        if self.ops.iter().flatten().any(|op| op.reads_input(context)) {
            self.saved = Some(self.input.save(x, &self.scope)?);
        }
        self.input = SavedInput::Policy(SavePolicy::Exact);
        if context.any_needs_grad() {
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        Ok(outputs.iter().map(|of_map| Tensor::f_cat(of_map, 0)).collect::<Result<_, _>>()?)
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let parameters = context.saved()?;
        let mut grad_inputs: Vec<Option<Tensor>> = (0..=parameters.len()).map(|_| None).collect();
        let Some(any) = gradients.iter().flatten().next() else { return Ok(grad_inputs) };
        let (kind, device) = (any.kind(), any.device());
        let tokens = &self.dispatch.tokens;
        let rows = match &self.saved {
            Some(saved) => Some(saved.restore()?.f_index_select(0, tokens)?),
            None => None,
        };
        let mut d_x = match context.needs_grad(0) {
            true => Some(Tensor::f_zeros(&self.shape[..], (kind, device))?),
            false => None,
        };
        for (expert, maps) in self.ops.iter().enumerate() {
            let (first, count) = self.dispatch.rows_of(expert);
            let own = match &rows {
                Some(rows) => Some(rows.f_narrow(0, first, count)?),
                None => None,
            };
            let input = own.as_ref().map_or(LinearInput::Saved(None), LinearInput::Rows);
            let mut sum = GradSum::default();
            for (op, gradient) in maps.iter().zip(gradients) {
                let Some(gradient) = gradient else { continue };
                let dy = gradient.f_narrow(0, first, count)?;
                op.backward(
                    &dy,
                    &parameters,
                    &input,
                    context,
                    &mut grad_inputs,
                    d_x.is_some().then_some(&mut sum),
                )?;
            }
            if let (Some(d_x), Some(sum)) = (&mut d_x, sum.into_inner()) {
                let _ = d_x.f_index_add_(0, &tokens.f_narrow(0, first, count)?, &sum)?;
            }
        }
        grad_inputs[0] = d_x;
        Ok(grad_inputs)
    }
}

/// The maps out of each expert's inner width, each row times its weight, summed up for each token:
/// `inner` `[rows, in]` and `weights` `[tokens, per_token]` (as the router gave them) to `[tokens,
/// out]`. The maps must have no bias.
///
/// `inner` is saved as `policy` says at the site of `scope`, if a weight needs it or the router
/// learns, and the weights exactly, at [`Site::Router`] of `layer`.
///
/// # Errors
/// [`Error::Shape`] if something does not fit; those of saving.
pub fn expert_outputs(
    inner: &Tensor,
    weights: &Tensor,
    experts: &[Projection<'_>],
    dispatch: &Dispatch,
    policy: &SavePolicy,
    scope: &Scope,
    layer: &Scope,
) -> Result<Tensor, Error> {
    dispatch.check("expert_outputs", experts.len())?;
    let rows = dispatch.rows();
    if inner.size()[0] != rows || weights.numel() as i64 != rows {
        let expected = format!("{rows} rows and as many weights");
        return Err(Error::Shape { operation: "expert_outputs", expected, got: inner.size() });
    }
    let mut inputs = vec![inner, weights];
    let maps: Vec<Vec<Projection<'_>>> = experts.iter().map(|expert| vec![*expert]).collect();
    let ops = ops(&maps, inner, scope, &mut inputs)?.into_iter().flatten().collect();
    let function = ExpertOutputs {
        ops,
        dispatch: dispatch.shallow_clone(),
        policy: *policy,
        scope: scope.clone(),
        router: layer.site(Site::Router),
        saved: None,
    };
    Ok(apply(function, &inputs)?.remove(0))
}

struct ExpertOutputs {
    ops: Vec<LinearOp>,
    dispatch: Dispatch,
    policy: SavePolicy,
    scope: Scope,
    router: Scope,
    /// `inner`, if something needs it, and the weights of the pairs.
    saved: Option<(Option<SavedActivation>, SavedActivation)>,
}

impl ExpertOutputs {
    /// The weight of each row, `[rows, 1]`.
    fn row_weights(&self, weights: &Tensor) -> Result<Tensor, tch::TchError> {
        weights.f_reshape([-1])?.f_index_select(0, &self.dispatch.pairs)?.f_unsqueeze(1)
    }
}

impl Function for ExpertOutputs {
    fn name(&self) -> String {
        "expert outputs".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (inner, weights) = (inputs[0], inputs[1]);
        let mut outputs = Vec::with_capacity(self.ops.len());
        for (expert, op) in self.ops.iter_mut().enumerate() {
            let (first, count) = self.dispatch.rows_of(expert);
            // In backward its rows are weighted: what it saves of its own would not be.
            outputs.push(op.forward(&inner.f_narrow(0, first, count)?, inputs, None)?);
        }
        let rows = Tensor::f_cat(&outputs, 0)?.f_mul(&self.row_weights(weights)?)?;
        let mut sum =
            Tensor::f_zeros([weights.size()[0], rows.size()[1]], (rows.kind(), rows.device()))?;
        let sum = sum.f_index_add_(0, &self.dispatch.tokens, &rows)?;
        if context.any_needs_grad() {
            let reads_inner =
                context.needs_grad(1) || self.ops.iter().any(|op| op.reads_input(context));
            let inner =
                if reads_inner { Some(self.policy.save(inner, &self.scope)?) } else { None };
            self.saved = Some((inner, SavePolicy::Exact.save(weights, &self.router)?));
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        Ok(vec![sum])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let parameters = context.saved()?;
        let mut grad_inputs: Vec<Option<Tensor>> = (0..=parameters.len()).map(|_| None).collect();
        let (Some(dy), Some((inner, weights))) = (&gradients[0], &self.saved) else {
            return Ok(grad_inputs);
        };
        let (inner, weights) =
            (inner.as_ref().map(SavedActivation::restore).transpose()?, weights.restore()?);
        let (row_weights, kind) = (self.row_weights(&weights)?, dy.kind());
        let gradients = dy.f_index_select(0, &self.dispatch.tokens)?;
        // The maps are linear: their weights see rows of `weight · inner`, and d weight = dy ·
        // map(inner) = mapᵀ(dy) · inner.
        let weighted = match &inner {
            Some(inner) => Some(inner.f_mul(&row_weights)?),
            None => None,
        };
        let mut output_grads = Vec::with_capacity(self.ops.len());
        for (expert, op) in self.ops.iter().enumerate() {
            let (first, count) = self.dispatch.rows_of(expert);
            let own = match &weighted {
                Some(weighted) => Some(weighted.f_narrow(0, first, count)?),
                None => None,
            };
            let input = own.as_ref().map_or(LinearInput::Saved(None), LinearInput::Rows);
            let mut sum = GradSum::default();
            op.backward(
                &gradients.f_narrow(0, first, count)?,
                &parameters,
                &input,
                context,
                &mut grad_inputs,
                Some(&mut sum),
            )?;
            output_grads.extend(sum.into_inner());
        }
        let output_grads = Tensor::f_cat(&output_grads, 0)?;
        if let (true, Some(inner)) = (context.needs_grad(1), &inner) {
            let along = output_grads.f_mul(inner)?.f_sum_dim_intlist(-1, false, kind)?;
            let flat = Tensor::f_zeros([self.dispatch.rows()], (kind, dy.device()))?.f_index_copy(
                0,
                &self.dispatch.pairs,
                &along,
            )?;
            grad_inputs[1] = Some(flat.f_view(&weights.size()[..])?);
        }
        if context.needs_grad(0) {
            grad_inputs[0] = Some(output_grads.f_mul(&row_weights)?);
        }
        Ok(grad_inputs)
    }
}
