//! The footprint of linear layers.

use crate::footprint::{Allocation, MemorySim, SavedTensor};

/// A linear layer from `[rows, inputs]` to `[rows, outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct LinearShape {
    /// Width of its output.
    pub outputs: u64,
    /// Width of its input.
    pub inputs: u64,
    /// The rank of its LoRA pair.
    pub lora: Option<u64>,
    /// Whether the pair has a magnitude (DoRA).
    pub dora: bool,
    /// Whether elements of the pair's input are dropped.
    pub dropout: bool,
    /// Whether A is frozen.
    pub frozen_a: bool,
    /// Whether its weight is trained.
    pub weight_trained: bool,
    /// Whether its weight is quantized.
    pub quantized: bool,
}

impl LinearShape {
    /// Whether it has a trained parameter.
    pub fn is_trained(&self) -> bool {
        self.lora.is_some() || self.weight_trained
    }

    /// With A frozen, the narrow projection is saved instead of the input (LoRA-FA).
    fn saves_projection(&self) -> bool {
        self.frozen_a
            && self.lora.is_some_and(|rank| rank < self.inputs)
            && !self.dora
            && !self.weight_trained
    }

    /// Whether its input is saved.
    pub fn reads_input(&self) -> bool {
        self.is_trained() && !self.saves_projection()
    }
}

impl MemorySim {
    /// Linear layers of one input; the outputs.
    pub fn project(&self, rows: u64, linears: &[LinearShape]) -> Vec<Allocation> {
        linears.iter().map(|linear| self.linear(rows, linear)).collect()
    }

    fn linear(&self, rows: u64, linear: &LinearShape) -> Allocation {
        let _weight = self.dequantized(linear.quantized, linear.outputs * linear.inputs);
        let Some(rank) = linear.lora else { return self.tensor(rows * linear.outputs) };
        // A and B in the dtype of the rows.
        let _pair = (!self.is_wide()).then(|| self.tensor((linear.inputs + linear.outputs) * rank));
        let _dropped = linear.dropout.then(|| self.drop_elements(rows * linear.inputs));
        let small = {
            let _product = self.tensor(rows * rank);
            self.tensor(rows * rank)
        };
        let y = self.tensor(rows * linear.outputs);
        let _small = small;
        if !linear.dora {
            return y;
        }
        // The rows' norms, then the output at its magnitudes, in f32.
        let scaled = self.wide(rows * linear.outputs);
        let _y = y;
        self.narrowed(scaled, rows * linear.outputs)
    }

    /// From the outputs' gradients that of the input, if it is wanted; `saved` is the input.
    pub fn project_backward(
        &self,
        rows: u64,
        linears: &[LinearShape],
        saved: Option<&SavedTensor>,
        dys: &[Allocation],
        wants_input: bool,
    ) -> Option<Allocation> {
        let (mut sum, mut gradients) = (None, Vec::new());
        for (linear, _dy) in linears.iter().zip(dys) {
            let _weight = self.dequantized(
                linear.quantized && (wants_input || linear.dora),
                linear.outputs * linear.inputs,
            );
            let scaled_dy = linear.dora.then(|| {
                let scaled = self.wide(rows * linear.outputs);
                self.narrowed(scaled, rows * linear.outputs)
            });
            if wants_input && sum.is_none() {
                sum = Some(self.tensor(rows * linear.inputs));
            }
            let restored = saved
                .filter(|saved| linear.reads_input() && saved.is_code())
                .map(|saved| self.restore(saved));
            let _dropped = linear.dropout.then(|| self.drop_elements(rows * linear.inputs));
            if linear.weight_trained {
                gradients.push(self.tensor(linear.outputs * linear.inputs));
            }
            if let Some(rank) = linear.lora {
                let _pair =
                    (!self.is_wide()).then(|| self.tensor((linear.inputs + linear.outputs) * rank));
                let small = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                gradients.push(self.tensor(rank * linear.inputs));
                let projected = {
                    let _product = self.tensor(rows * rank);
                    self.tensor(rows * rank)
                };
                gradients.push(self.tensor(linear.outputs * rank));
                if linear.dora {
                    let _unscaled = self.tensor(rows * linear.outputs);
                    drop(self.wide(rows * linear.outputs));
                }
                if wants_input && linear.dropout {
                    let _through = self.tensor(rows * linear.inputs);
                    drop(self.drop_elements(rows * linear.inputs));
                }
                drop((small, projected));
            }
            drop((restored, scaled_dy));
        }
        sum
    }
}
