use crate::Trained;
use models::Model;
use std::collections::BTreeSet;

/// The parameters that a model trains, as the optimiser takes them. With LoRA+ (arXiv 2402.12354) every B learns `lora_plus_ratio` times as
/// fast, and so does, as in PEFT, every vector.
pub fn parameter_groups(model: &(impl Model + ?Sized), lora_plus_ratio: f64) -> Vec<Trained<'_>> {
    let weights: BTreeSet<&str> = model.linears().into_iter().map(|linear| linear.weight().name()).collect();
    let mut parameters = Vec::new();
    for parameter in model.trained() {
        let (name, tensor) = (parameter.name(), parameter.tensor());
        let is_fast = name.ends_with(".lora_B.weight") || tensor.dim() == 1;
        parameters.push(Trained {
            tensor,
            rate: if is_fast { lora_plus_ratio } else { 1.0 },
            is_hidden_matrix: name.contains(".lora_") || weights.contains(name),
        });
    }
    parameters
}
