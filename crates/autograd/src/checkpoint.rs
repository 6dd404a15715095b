use tch::{Device, Tensor};

use crate::{Backward, BoxError, Error, Forward, Function, GradMode, apply, grad, random};

/// Runs a block, saving its inputs only; backward computes the block again (Chen et al. 2016, arXiv
/// 1604.06174).
///
/// `run` is called with the inputs now and again in backward; it must depend on nothing that
/// changes in between. `parameters` are the tensors inside `run` that require gradients: given
/// here, they get them even if no input needs one, and their hooks fire once. The state of the
/// global generators is saved before the forward and put back for the repetition, so that dropout
/// drops the same elements.
///
/// # Errors
/// As [`apply`].
pub fn checkpoint<R>(
    run: R,
    inputs: &[&Tensor],
    parameters: &[&Tensor],
) -> Result<Vec<Tensor>, Error>
where
    R: Fn(&[Tensor]) -> Result<Vec<Tensor>, BoxError> + Send + 'static,
{
    let device =
        inputs.first().or(parameters.first()).map_or(Device::Cpu, |tensor| tensor.device());
    let function = Checkpoint { run, inputs: inputs.len(), device, states: Vec::new() };
    let all: Vec<&Tensor> = inputs.iter().chain(parameters).copied().collect();
    apply(function, &all)
}

struct Checkpoint<R> {
    run: R,
    /// How many of the function's inputs are the block's; the rest are parameters.
    inputs: usize,
    device: Device,
    /// Of the CPU's generator and, if the block runs elsewhere, of that device's.
    states: Vec<(Device, Tensor)>,
}

impl<R> Function for Checkpoint<R>
where
    R: Fn(&[Tensor]) -> Result<Vec<Tensor>, BoxError> + Send + 'static,
{
    fn name(&self) -> String {
        "checkpoint".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        if context.any_needs_grad() {
            self.states = random_states(self.device)?;
            inputs.iter().for_each(|input| context.save(input));
        }
        let own: Vec<Tensor> = inputs[..self.inputs].iter().map(|input| input.detach()).collect();
        (self.run)(&own)
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let mut saved = context.saved()?;
        let parameters = saved.split_off(self.inputs);
        let needs: Vec<bool> =
            (0..self.inputs + parameters.len()).map(|index| context.needs_grad(index)).collect();
        let now = random_states(self.device)?;
        set_random_states(&self.states)?;
        let answers = replay(&self.run, saved, &parameters, &needs, gradients);
        set_random_states(&now)?;
        answers
    }
}

fn random_states(device: Device) -> Result<Vec<(Device, Tensor)>, Error> {
    let mut devices = vec![Device::Cpu];
    if device != Device::Cpu {
        devices.push(device);
    }
    devices.into_iter().map(|device| Ok((device, random::state(device)?))).collect()
}

fn set_random_states(states: &[(Device, Tensor)]) -> Result<(), Error> {
    states.iter().try_for_each(|(device, state)| random::set_state(*device, state))
}

/// The second half of a checkpoint, for functions that hold a block's inputs in a way of their own:
/// runs the block on `inputs` with gradients on, and pulls the outputs' gradients back to inputs
/// and parameters, in this order. `needs` says which are wanted.
///
/// # Errors
/// Those of `run`, and of its backward.
pub fn replay<R>(
    run: R,
    inputs: Vec<Tensor>,
    parameters: &[Tensor],
    needs: &[bool],
    gradients: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>, BoxError>
where
    R: Fn(&[Tensor]) -> Result<Vec<Tensor>, BoxError>,
{
    let _mode = GradMode::enabled();
    let inputs: Vec<Tensor> = inputs
        .into_iter()
        .zip(needs)
        .map(|(input, needs)| input.detach().set_requires_grad(*needs))
        .collect();
    let outputs = run(&inputs)?;
    // Outputs without a gradient, or without a graph, have nothing to pull back.
    let pairs: Vec<(&Tensor, Option<&Tensor>)> = outputs
        .iter()
        .zip(gradients)
        .filter_map(|(output, gradient)| Some((output, Some(gradient.as_ref()?))))
        .filter(|(output, _)| output.requires_grad())
        .collect();
    let (outputs, gradients): (Vec<&Tensor>, Vec<Option<&Tensor>>) = pairs.into_iter().unzip();
    let wanted: Vec<&Tensor> = inputs
        .iter()
        .chain(parameters)
        .zip(needs)
        .filter(|(_, needs)| **needs)
        .map(|(tensor, _)| tensor)
        .collect();
    let mut found = if outputs.is_empty() || wanted.is_empty() {
        wanted.iter().map(|_| None).collect::<Vec<_>>().into_iter()
    } else {
        grad(&outputs, &wanted, &gradients, false, false)?.into_iter()
    };
    Ok(needs.iter().map(|needs| if *needs { found.next().flatten() } else { None }).collect())
}
