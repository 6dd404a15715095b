//! Bytes of optimizer states and workspace, from the shapes of the parameters.

use tch::Kind;

use config::{Optimizer, OptimizerMethod};

use super::adamw8bit::CHUNK;
use super::blockwise::BLOCK;
use super::workspace::Workspace;

/// The shape and dtype of a parameter to be trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedShape {
    /// Its dimensions.
    pub shape: Vec<i64>,
    /// Its dtype.
    pub kind: Kind,
    /// Whether it is a matrix of a hidden layer.
    pub is_hidden_matrix: bool,
}

impl TrainedShape {
    /// Its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product::<i64>() as u64
    }
}

/// The bytes that an [`crate::Optimizer`] of these parameters allocates: its states, and the
/// workspace of a step.
pub fn optimizer_bytes(parameters: &[TrainedShape], options: &Optimizer) -> (u64, u64) {
    let (mut state, mut workspace) = (0, 0);
    for parameter in parameters {
        let elements = parameter.elements();
        let f32s = Workspace::bytes(Kind::Float, elements as usize) as u64;
        let (own_state, own_workspace) = match options.method {
            // A byte for each element, and a scale for each block of them, twice.
            OptimizerMethod::AdamW8bit => {
                let buffer = elements.min(CHUNK as u64).next_multiple_of(BLOCK as u64);
                (
                    2 * (elements + 4 * elements.div_ceil(BLOCK as u64)),
                    4 * Workspace::bytes(Kind::Float, buffer as usize) as u64,
                )
            }
            OptimizerMethod::Lion => (4 * elements, f32s),
            OptimizerMethod::Sgd => (if options.momentum() > 0.0 { 4 * elements } else { 0 }, f32s),
            OptimizerMethod::Muon if parameter.is_hidden_matrix && parameter.shape.len() == 2 => {
                let (short, long) = (
                    parameter.shape[0].min(parameter.shape[1]),
                    parameter.shape[0].max(parameter.shape[1]),
                );
                let matrix =
                    |elements: i64| 2 * Workspace::bytes(Kind::Float, elements as usize) as u64;
                (4 * elements, matrix(short * long) + matrix(short * short))
            }
            _ => (8 * elements, 0),
        };
        // A gradient of another dtype is widened there too, and the parameter itself has a master
        // copy.
        let wide = if parameter.kind == Kind::Float { 0 } else { f32s };
        let master = if parameter.kind == Kind::BFloat16 && options.master_weights {
            4 * elements
        } else {
            0
        };
        state += own_state + master;
        workspace = workspace.max(wide + own_workspace);
    }
    (state, workspace)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Optimizer, Partition, TrainedParam};
    use super::*;
    use config::Run;
    use tch::{Device, Tensor};

    #[test]
    fn bytes_match_every_optimizer() {
        let shapes = [
            (vec![40, 70], Kind::Float, true),
            (vec![300, 1000], Kind::BFloat16, true),
            (vec![77], Kind::Float, false),
        ];
        let tensors: Vec<Tensor> = shapes
            .iter()
            .map(|(shape, kind, _)| Tensor::zeros(shape, (*kind, Device::Cpu)))
            .collect();
        let parameters: Vec<TrainedParam<'_>> = tensors
            .iter()
            .zip(&shapes)
            .map(|(tensor, of)| TrainedParam { tensor, lr_scale: 1.0, is_hidden_matrix: of.2 })
            .collect();
        let known: Vec<TrainedShape> = shapes
            .iter()
            .map(|(shape, kind, is_hidden_matrix)| TrainedShape {
                shape: shape.clone(),
                kind: *kind,
                is_hidden_matrix: *is_hidden_matrix,
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        for name in ["adamw", "adamw8bit", "lion", "muon", "sgd"] {
            std::fs::write(
                &path,
                format!(
                    "[model]\npath='m'\n[lora]\n[data]\ntrain='t'\n[optimizer]\nmethod='{name}'\n"
                ),
            )
            .unwrap();
            let options = Run::load(&path, &[]).unwrap().optimizer;
            let optimizer = Optimizer::new(&parameters, &options, Partition::WHOLE).unwrap();
            let bytes =
                |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
            let state: u64 = optimizer
                .states()
                .flat_map(|state| state.tensors)
                .map(|(_, tensor)| bytes(tensor))
                .sum();
            assert_eq!(
                optimizer_bytes(&known, &options),
                (state, bytes(&optimizer.workspace.buffer)),
                "{name}"
            );
        }
    }
}
