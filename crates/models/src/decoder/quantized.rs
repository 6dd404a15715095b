//! What a decoder's weights take when they are quantized.

use layers::Nf4;

use super::Decoder;
use crate::quantization::WeightFormat;
use crate::{Checkpoint, ModelConfig, Quantization};

impl Quantization {
    /// The weights of a decoder that would be quantized, and their bytes. For the blocks of a GGUF
    /// file it takes the `checkpoint`.
    pub fn quantized_bytes(
        self,
        config: &ModelConfig,
        checkpoint: Option<&Checkpoint>,
    ) -> Vec<(String, u64)> {
        let packed = Decoder::tensor_roles(config).into_iter().filter_map(|(name, shape, role)| {
            let elements: i64 = shape.iter().product();
            let bytes = match self.format(role, checkpoint, &name, &shape)? {
                WeightFormat::Nf4 => Nf4::bytes(elements)?,
                WeightFormat::Blocks(format) => {
                    (elements / format.size().elements * format.size().bytes) as u64
                }
            };
            Some((name, bytes))
        });
        packed.collect()
    }
}
