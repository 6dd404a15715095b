use tch::Tensor;

use autograd::{Backward, BoxError, Forward, Function, apply, replay};

use crate::{Error, SavePolicy, SavedActivation, SavedInput, Scope};

/// Runs a block on `x`, saving `x` as `input` says and nothing else; backward restores `x` and runs
/// the block again.
///
/// With [`SavePolicy::Exact`] this is checkpointing; with a low-rank pair it is LoRAct's layer
/// mode: the forward is exact, the gradients are those of the block at the restored input.
/// `parameters` are the tensors inside `run` that require gradients. Random choices inside `run`
/// must come from its scope, which makes the same ones again.
///
/// # Errors
/// Those of `run` and of saving.
pub fn recompute<R>(
    run: R,
    x: &Tensor,
    parameters: &[&Tensor],
    input: impl Into<SavedInput>,
    scope: &Scope,
) -> Result<Tensor, Error>
where
    R: Fn(&Tensor) -> Result<Tensor, Error> + Send + 'static,
{
    let mut inputs = vec![x];
    inputs.extend(parameters);
    let function = Recompute { run, input: input.into(), scope: scope.clone(), saved: None };
    Ok(apply(function, &inputs)?.remove(0))
}

struct Recompute<R> {
    run: R,
    input: SavedInput,
    scope: Scope,
    saved: Option<SavedActivation>,
}

impl<R> Function for Recompute<R>
where
    R: Fn(&Tensor) -> Result<Tensor, Error> + Send + 'static,
{
    fn name(&self) -> String {
        "recompute".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        if context.any_needs_grad() {
            self.saved = Some(self.input.save(inputs[0], &self.scope)?);
            inputs[1..].iter().for_each(|parameter| context.save(parameter));
        }
        self.input = SavedInput::Policy(SavePolicy::Exact);
        Ok(vec![(self.run)(&inputs[0].detach())?])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(saved) = &self.saved else { return Err("the input was not saved".into()) };
        let parameters = context.saved()?;
        let needs: Vec<bool> =
            (0..=parameters.len()).map(|index| context.needs_grad(index)).collect();
        let run = |inputs: &[Tensor]| Ok(vec![(self.run)(&inputs[0])?]);
        replay(run, vec![saved.restore()?], &parameters, &needs, gradients)
    }
}
