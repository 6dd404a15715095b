//! What a decoder consists of, known from its configuration alone.

use std::collections::HashMap;

use super::Decoder;
use crate::{Linear, Model, ModelConfig, Result};

/// A linear layer without its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearOutline {
    /// Its path in the model, as adapters name it.
    pub path: String,
    /// Width of its output.
    pub outputs: i64,
    /// Width of its input.
    pub inputs: i64,
}

/// The linear layers of one block, by what they read. In a mixture of experts, one expert stands
/// for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOutline {
    /// Those that make queries, keys and values.
    pub into_attention: Vec<LinearOutline>,
    /// The one after attention.
    pub out_of_attention: LinearOutline,
    /// Those into the inner width of the MLP.
    pub into_mlp: Vec<LinearOutline>,
    /// The one out of it.
    pub out_of_mlp: LinearOutline,
    /// Whether there is a norm before attention, after it, before the MLP, and after that.
    pub norms: [bool; 4],
}

impl ModelConfig {
    /// The names of the head's weight and of the embedding.
    pub fn ends(&self) -> (String, String) {
        (format!("{}.weight", self.names.head), format!("{}.weight", self.names.embedding))
    }

    /// What the names of all tensors of blocks begin with.
    pub fn layer_prefix(&self) -> &'static str {
        self.names.layers
    }
}

impl Decoder {
    /// Every linear layer that an adapter may target.
    ///
    /// # Errors
    /// As [`Decoder::outline`].
    pub fn linear_outlines(config: &ModelConfig) -> Result<Vec<LinearOutline>> {
        let shapes = shapes(config);
        Ok(Self::listed(config)?
            .linears()
            .into_iter()
            .map(|linear| outline(linear, config, &shapes))
            .collect())
    }

    /// The blocks of a model of this configuration.
    ///
    /// # Errors
    /// None that a configuration that was read has.
    pub fn outline(config: &ModelConfig) -> Result<Vec<BlockOutline>> {
        let shapes = shapes(config);
        let outline = |linear: &Linear| outline(linear, config, &shapes);
        let listed = Self::listed(config)?;
        let blocks = listed.blocks.iter().map(|block| {
            let ([into_attention, into_mlp], [out_of_attention, out_of_mlp]) = block.stages();
            BlockOutline {
                into_attention: into_attention.into_iter().map(outline).collect(),
                out_of_attention: outline(out_of_attention),
                into_mlp: into_mlp.into_iter().map(outline).collect(),
                out_of_mlp: outline(out_of_mlp),
                norms: block.norms(),
            }
        });
        Ok(blocks.collect())
    }
}

fn shapes(config: &ModelConfig) -> HashMap<String, Vec<i64>> {
    Decoder::tensor_shapes(config).into_iter().collect()
}

fn outline(
    linear: &Linear,
    config: &ModelConfig,
    shapes: &HashMap<String, Vec<i64>>,
) -> LinearOutline {
    let shape = shapes.get(linear.weight().name()).map_or([0, 0], |shape| [shape[0], shape[1]]);
    let [outputs, inputs] = if config.names.fan_in_fan_out { [shape[1], shape[0]] } else { shape };
    LinearOutline { path: linear.path().to_owned(), outputs, inputs }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn every_family_has_its_stages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf");
        for family in std::fs::read_dir(folder).unwrap() {
            let file = family.unwrap().path().join("config.json");
            let config = ModelConfig::read(&file).unwrap();
            let paths = Decoder::linear_paths(&config);
            for block in Decoder::outline(&config).unwrap() {
                assert_eq!(
                    block.out_of_attention.inputs,
                    config.num_heads * config.value_dim(),
                    "{}",
                    file.display()
                );
                for linear in block
                    .into_attention
                    .iter()
                    .chain(&block.into_mlp)
                    .chain([&block.out_of_attention, &block.out_of_mlp])
                {
                    assert!(
                        paths.contains(&linear.path) && linear.outputs > 0 && linear.inputs > 0,
                        "{linear:?}"
                    );
                }
                assert!(block.into_mlp.iter().all(|linear| linear.inputs == config.hidden_size));
                assert_eq!(block.out_of_mlp.outputs, config.hidden_size);
            }
        }
    }
}
