use std::collections::BTreeSet;

use autograd::Parameter;

use crate::TrainedParam;

/// The optimizer's view of the parameters that are trained; `hidden_weights` names the weights of
/// linear layers.
///
/// With LoRA+ (arXiv 2402.12354) each B has `lora_plus_ratio` times the learning rate; so has, as
/// in PEFT, each vector.
pub fn parameter_groups<'a>(
    trained: &[&'a Parameter],
    hidden_weights: &BTreeSet<&str>,
    lora_plus_ratio: f64,
) -> Vec<TrainedParam<'a>> {
    let group = |parameter: &&'a Parameter| {
        let (name, tensor) = (parameter.name(), parameter.tensor());
        let is_fast = name.ends_with(".lora_B.weight") || tensor.dim() == 1;
        TrainedParam {
            tensor,
            lr_scale: if is_fast { lora_plus_ratio } else { 1.0 },
            is_hidden_matrix: name.contains(".lora_") || hidden_weights.contains(name),
        }
    };
    trained.iter().map(group).collect()
}
