pub(crate) mod footprint;

use tch::{Kind, Tensor};

use autograd::{Backward, BoxError, Forward, Function, GradMode, apply, grad};

use crate::{Error, SavePolicy, SavedActivation, Scope, Site};

/// The tokens to be predicted in a batch, found once.
#[derive(Debug)]
pub struct Targets {
    /// Which rows have one, `[targets]`.
    rows: Tensor,
    /// The tokens, `[targets]`.
    ids: Tensor,
    /// Rows of the batch.
    total: i64,
}

impl Targets {
    /// From `targets` `[..]` (integers), one for each row of the hidden states; −100 says that
    /// nothing is predicted there.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(targets: &Tensor) -> Result<Self, Error> {
        let targets = targets.f_flatten(0, -1)?;
        let rows = targets.f_ne(-100)?.f_nonzero()?.f_flatten(0, -1)?;
        Ok(Self { ids: targets.f_index_select(0, &rows)?, rows, total: targets.size()[0] })
    }

    /// How many tokens are predicted.
    pub fn count(&self) -> i64 {
        self.rows.size()[0]
    }
}

/// Tokens per chunk whose logits take about 64 MiB in f32: for 49,152 entries of vocabulary, 64 ·
/// 2²⁰ / (4 · 49,152) = 341.
pub fn chunk_tokens(vocabulary: i64) -> i64 {
    ((64 << 20) / (4 * vocabulary.max(1))).max(16)
}

/// The sum of the losses of all targets, times `weight`, never holding the logits of more than
/// `chunk` tokens.
///
/// `hidden` `[.., width]` are the states that `lm_head` turns into logits `[tokens, vocabulary]` in
/// f32 (or f64): final norm, head, and what else a model has there. Only rows that predict
/// something are given to it. Each chunk's gradient is computed with its loss and the logits are
/// gone; what is saved for backward is the gradient of those rows `[targets, width]`, and of the
/// `parameters` of `lm_head` that require one.
///
/// # Errors
/// [`Error::Shape`] if there is not one row of `hidden` for each target; those of `lm_head`.
pub fn loss_over_chunks<T>(
    lm_head: T,
    hidden: &Tensor,
    parameters: &[&Tensor],
    targets: &Targets,
    weight: f64,
    chunk: i64,
    scope: &Scope,
) -> Result<Tensor, Error>
where
    T: Fn(&Tensor) -> Result<Tensor, Error> + Send + 'static,
{
    let width = hidden.size().last().copied().unwrap_or(1);
    if hidden.numel() as i64 != targets.total * width {
        return Err(Error::Shape {
            operation: "loss_over_chunks",
            expected: format!("{} rows", targets.total),
            got: hidden.size(),
        });
    }
    let mut inputs = vec![hidden];
    inputs.extend(parameters);
    let function = ChunkedLoss {
        lm_head,
        rows: targets.rows.shallow_clone(),
        ids: Some(targets.ids.shallow_clone()),
        weight,
        chunk: chunk.max(1),
        scope: scope.clone(),
        shape: hidden.size(),
        total: targets.total,
        saved: Vec::new(),
    };
    Ok(apply(function, &inputs)?.remove(0))
}

struct ChunkedLoss<T> {
    lm_head: T,
    rows: Tensor,
    /// Needed in forward only, and let go there.
    ids: Option<Tensor>,
    weight: f64,
    chunk: i64,
    scope: Scope,
    /// Of `hidden`, and its rows.
    shape: Vec<i64>,
    total: i64,
    /// The gradients of the inputs, made in forward: of the rows of `hidden` that have a target,
    /// then of the parameters.
    saved: Vec<Option<SavedActivation>>,
}

impl<T> Function for ChunkedLoss<T>
where
    T: Fn(&Tensor) -> Result<Tensor, Error> + Send + 'static,
{
    fn name(&self) -> String {
        "loss_over_chunks".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (hidden, parameters) = (inputs[0], &inputs[1..]);
        let (count, width) = (self.rows.size()[0], self.shape.last().copied().unwrap_or(1));
        let device = hidden.device();
        let ids = self.ids.take().ok_or("a loss runs forward once")?;
        let hidden = hidden.f_reshape([-1, width])?;
        let mut d_hidden = match context.needs_grad(0) {
            true => Some(Tensor::f_empty([count, width], (hidden.kind(), device))?),
            false => None,
        };
        let wanted: Vec<&Tensor> = (0..parameters.len())
            .filter(|index| context.needs_grad(index + 1))
            .map(|index| parameters[index])
            .collect();
        let mut d_parameters: Vec<Tensor> =
            wanted.iter().map(|parameter| parameter.f_zeros_like()).collect::<Result<_, _>>()?;
        let mut sum = Tensor::f_zeros([] as [i64; 0], (Kind::Double, device))?;
        for start in (0..count).step_by(self.chunk as usize) {
            let length = self.chunk.min(count - start);
            let part = hidden.f_index_select(0, &self.rows.f_narrow(0, start, length)?)?;
            let ids = ids.f_narrow(0, start, length)?;
            if !context.any_needs_grad() {
                sum += token_losses(&(self.lm_head)(&part)?, &ids)?.f_sum(Kind::Double)?;
                continue;
            }
            let part = part.set_requires_grad(d_hidden.is_some());
            let logits = {
                let _mode = GradMode::enabled();
                (self.lm_head)(&part)?
            };
            let (losses, d_logits) = losses_and_gradient(&logits, &ids, self.weight)?;
            sum += losses.f_sum(Kind::Double)?;
            let mut of = wanted.clone();
            if d_hidden.is_some() {
                of.push(&part);
            }
            let mut found = grad(&[&logits], &of, &[Some(&d_logits)], false, false)?;
            if let (Some(all), Some(Some(gradient))) =
                (&mut d_hidden, d_hidden_of(&mut found, wanted.len()))
            {
                all.f_narrow(0, start, length)?.f_copy_(&gradient)?;
            }
            for (total, gradient) in d_parameters.iter_mut().zip(found.into_iter().flatten()) {
                let _ = total.f_add_(&gradient)?;
            }
        }
        let mut d_parameters = d_parameters.into_iter();
        let scope = self.scope.site(Site::Loss);
        let mut policy = |needed: bool, gradient: Option<Tensor>| -> Result<(), Error> {
            self.saved.push(match gradient.filter(|_| needed) {
                Some(gradient) => Some(SavePolicy::Exact.save(&gradient, &scope)?),
                None => None,
            });
            Ok(())
        };
        policy(context.needs_grad(0), d_hidden)?;
        for index in 1..inputs.len() {
            let needed = context.needs_grad(index);
            policy(needed, if needed { d_parameters.next() } else { None })?;
        }
        Ok(vec![sum.f_mul_scalar(self.weight)?])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(upstream) = &gradients[0] else {
            return Ok(self.saved.iter().map(|_| None).collect());
        };
        let mut grad_inputs = Vec::with_capacity(self.saved.len());
        for (index, saved) in self.saved.iter().enumerate() {
            let (Some(saved), true) = (saved, context.needs_grad(index)) else {
                grad_inputs.push(None);
                continue;
            };
            let gradient = saved.restore()?;
            let gradient = gradient.f_mul(&upstream.f_to_kind(gradient.kind())?)?;
            grad_inputs.push(Some(if index > 0 {
                gradient
            } else {
                let mut all = Tensor::f_zeros(
                    [self.total, gradient.size()[1]],
                    (gradient.kind(), gradient.device()),
                )?;
                all.f_index_copy_(0, &self.rows, &gradient)?.f_view(&self.shape[..])?
            }));
        }
        Ok(grad_inputs)
    }
}

/// The gradient of the hidden rows, if it was asked for: it follows those of the parameters.
fn d_hidden_of(found: &mut Vec<Option<Tensor>>, parameters: usize) -> Option<Option<Tensor>> {
    if found.len() > parameters { found.pop() } else { None }
}

/// Cross-entropy of each row of `logits` `[tokens, vocabulary]` (f32 or f64) against `ids`
/// `[tokens]`: `[tokens]`.
///
/// # Errors
/// Those of libtorch, as an id outside the vocabulary.
pub fn token_losses(logits: &Tensor, ids: &Tensor) -> Result<Tensor, Error> {
    let own = logits.f_gather(1, &ids.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
    Ok(logits.f_logsumexp(1, false)?.f_sub(&own)?)
}

/// [`token_losses`], and `weight` times the gradient of their sum, `softmax − one-hot`, written
/// over the logits: nothing else of their size is ever held. What made the logits must not need
/// them in its backward; a matrix product does not.
fn losses_and_gradient(
    logits: &Tensor,
    ids: &Tensor,
    weight: f64,
) -> Result<(Tensor, Tensor), Error> {
    let ids = ids.f_unsqueeze(1)?;
    let mut logits = logits.f_detach()?;
    let largest = logits.f_amax(1, true)?;
    let _ = logits.f_sub_(&largest)?;
    let own = logits.f_gather(1, &ids, false)?;
    let _ = logits.f_exp_()?;
    let sum = logits.f_sum_dim_intlist(1, true, logits.kind())?;
    let losses = sum.f_log()?.f_sub(&own)?.f_squeeze_dim(1)?;
    let _ = logits.f_div_(&sum)?;
    let minus_one = Tensor::f_full(ids.size(), -1.0, (logits.kind(), logits.device()))?;
    let _ = logits.f_scatter_add_(1, &ids, &minus_one)?;
    let _ = logits.f_mul_scalar_(weight)?;
    Ok((losses, logits))
}
