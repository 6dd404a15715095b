//! GGUF files, read through candle and turned into Hugging Face's names and layouts.

mod header;
mod metadata;
mod names;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::quantized::{GgmlDType, ggml_file};
use tch::{Device, Kind, Tensor};

use layers::BlockFormat;

use super::text::Text;
use super::tokenizer::TokenizerSource;
use super::{Checkpoint, ROPE_DIVISORS, Weights};
use crate::config::{self, gguf::TensorFacts};
use crate::file_range::{self, FileRange};
use crate::{Architecture, Error, Result};
use names::Rotary;

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let file = crate::file::open(path)?;
    let content = header::read(&file, path)?;
    let mut weights = Blocks::new(file, path, &content)?;
    let fields = metadata::scalars(&content);
    let fields = config::fields::Fields::new(path, &fields);
    let config = config::gguf::read(&fields, &weights.facts()?)?;
    weights.heads = Rotary { q: config.num_heads, k: config.num_kv_heads };
    weights.check_rotary_rows()?;
    let tokenizer = metadata::tokenizer(&content, path)?;
    let text = match tokenizer {
        None => Text::default(),
        Some(tokenizer) => Text {
            templates: tokenizer.templates.clone(),
            tokenizer: TokenizerSource::Gguf(Box::new(tokenizer)),
        },
    };
    Ok(Checkpoint {
        path: path.to_owned(),
        architecture: Architecture::Decoder(config),
        weights: Box::new(weights),
        text,
    })
}

/// The tensors of a GGUF file under their Hugging Face names.
#[derive(Debug)]
struct Blocks {
    path: PathBuf,
    file: File,
    bytes: u64,
    tensors: HashMap<String, Block>,
    heads: Rotary,
}

/// One tensor of the file.
#[derive(Debug)]
struct Block {
    dtype: GgmlDType,
    shape: Vec<i64>,
    offset: u64,
}

impl Blocks {
    fn new(file: File, path: &Path, content: &Content) -> Result<Self> {
        let bytes = file.metadata().map_err(Error::io(path, "read"))?.len();
        let mut tensors = HashMap::new();
        for (name, info) in &content.tensor_infos {
            let block = Block::new(info, content.tensor_data_offset, bytes)
                .map_err(|why| Error::corrupt(path, format!("its tensor {name} {why}")))?;
            let name = names::hugging_face(name);
            if tensors.contains_key(&name) {
                return Err(Error::corrupt(path, format!("it holds {name} twice")));
            }
            tensors.insert(name, block);
        }
        Ok(Blocks { path: path.to_owned(), file, bytes, tensors, heads: Rotary { q: 1, k: 1 } })
    }

    fn facts(&self) -> Result<TensorFacts> {
        let has = |name: &str| self.tensors.contains_key(name);
        let rope_divisors = match has(ROPE_DIVISORS) {
            false => None,
            true => {
                let divisors = self.tensor(ROPE_DIVISORS, Kind::Float, Device::Cpu)?;
                let divisors = divisors.f_view([-1]).and_then(Vec::<f32>::try_from);
                Some(divisors.map_err(Error::torch(ROPE_DIVISORS, &self.path))?)
            }
        };
        Ok(TensorFacts {
            vocab_size: self
                .shape("model.embed_tokens.weight")
                .and_then(|shape| shape.first().copied()),
            has_output: has("lm_head.weight"),
            attention_bias: has("model.layers.0.self_attn.q_proj.bias"),
            mlp_bias: has("model.layers.0.mlp.gate_proj.bias"),
            rope_divisors,
        })
    }

    /// Rows that rotary embeddings turn must come in pairs per head, or they cannot be put in
    /// order.
    fn check_rotary_rows(&self) -> Result<()> {
        for (name, block) in &self.tensors {
            let Some(heads) = self.heads.heads(name) else { continue };
            let rows = block.shape.first().copied().unwrap_or(0);
            if rows == 0 || rows % (2 * heads) != 0 {
                let why =
                    format!("{name} has {rows} rows, which do not make pairs in {heads} heads");
                return Err(Error::corrupt(&self.path, why));
            }
        }
        Ok(())
    }

    fn block(&self, name: &str) -> Result<&Block> {
        let missing = || Error::MissingTensor { tensor: name.to_owned(), file: self.path.clone() };
        self.tensors.get(name).ok_or_else(missing)
    }
}

impl Block {
    /// Checks that the tensor lies inside the file, row by row in whole blocks.
    fn new(
        info: &TensorInfo,
        data_offset: u64,
        file_bytes: u64,
    ) -> std::result::Result<Self, String> {
        let dims = info.shape.dims();
        let shape: Option<Vec<i64>> = dims.iter().map(|&n| i64::try_from(n).ok()).collect();
        let elements = dims.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let (Some(shape), Some(elements)) = (shape, elements.filter(|&n| i64::try_from(n).is_ok()))
        else {
            return Err(format!("is of impossible shape {dims:?}"));
        };
        let per_block = info.ggml_dtype.block_size();
        let row = dims.last().copied().unwrap_or(1);
        if !row.is_multiple_of(per_block) {
            return Err(format!("has rows of {row} elements in blocks of {per_block}"));
        }
        let offset = data_offset.checked_add(info.offset);
        let length = (elements / per_block).checked_mul(info.ggml_dtype.type_size());
        let end = offset.zip(length).and_then(|(offset, length)| offset.checked_add(length as u64));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= file_bytes => {
                Ok(Block { dtype: info.ggml_dtype, shape, offset })
            }
            _ => Err(format!("ends beyond the {file_bytes} bytes of the file")),
        }
    }
}

impl Weights for Blocks {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        self.tensors.get(name).map(|block| block.shape.as_slice())
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        plain(self.tensors.get(name)?.dtype)
    }

    fn check_format(&self, name: &str) -> Result<()> {
        use GgmlDType as T;
        match self.block(name)?.dtype {
            T::F32 | T::F16 | T::BF16 | T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 => Ok(()),
            T::Q2K | T::Q3K | T::Q4K | T::Q5K | T::Q6K => Ok(()),
            other => Err(Error::Dtype {
                tensor: name.to_owned(),
                file: self.path.clone(),
                expected: "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K",
                got: format!("{other:?}"),
            }),
        }
    }

    fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        let block = self.block(name)?;
        let file_range = FileRange {
            offset: block.offset,
            block_bytes: block.dtype.type_size(),
            block_elements: block.dtype.block_size(),
        };
        let decode = |bytes: &[u8]| self.decode(name, block.dtype, bytes);
        let stored = file_range::read(
            &self.file,
            &self.path,
            name,
            file_range,
            &block.shape,
            kind,
            device,
            decode,
        )?;
        self.in_order(name, stored)
    }

    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        format(self.tensors.get(name)?.dtype)
    }

    fn blocks(&self, name: &str, device: Device) -> Result<Option<Tensor>> {
        let block = self.block(name)?;
        let (Some(format), [rows, width]) = (format(block.dtype), block.shape.as_slice()) else {
            return Ok(None);
        };
        let shape = [*rows, width / format.size().elements * format.size().bytes];
        let file_range = FileRange { offset: block.offset, block_bytes: 1, block_elements: 1 };
        let decode =
            |bytes: &[u8]| Tensor::f_from_slice(bytes).map_err(Error::torch(name, &self.path));
        let stored = file_range::read(
            &self.file,
            &self.path,
            name,
            file_range,
            &shape,
            Kind::Uint8,
            device,
            decode,
        )?;
        self.in_order(name, stored).map(Some)
    }

    fn bytes_on_disk(&self) -> u64 {
        self.bytes
    }
}

/// The kind of plain numbers; none of blocks.
fn plain(dtype: GgmlDType) -> Option<Kind> {
    match dtype {
        GgmlDType::F32 => Some(Kind::Float),
        GgmlDType::F16 => Some(Kind::Half),
        GgmlDType::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

/// The blocks that a weight may stay in.
fn format(dtype: GgmlDType) -> Option<BlockFormat> {
    match dtype {
        GgmlDType::Q4_0 => Some(BlockFormat::Q4_0),
        GgmlDType::Q4_1 => Some(BlockFormat::Q4_1),
        GgmlDType::Q5_0 => Some(BlockFormat::Q5_0),
        GgmlDType::Q5_1 => Some(BlockFormat::Q5_1),
        GgmlDType::Q8_0 => Some(BlockFormat::Q8_0),
        GgmlDType::Q2K => Some(BlockFormat::Q2K),
        GgmlDType::Q3K => Some(BlockFormat::Q3K),
        GgmlDType::Q4K => Some(BlockFormat::Q4K),
        GgmlDType::Q5K => Some(BlockFormat::Q5K),
        GgmlDType::Q6K => Some(BlockFormat::Q6K),
        _ => None,
    }
}

impl Blocks {
    /// The rows of `stored`, numbers or the bytes of their blocks, in the order of Hugging Face.
    fn in_order(&self, name: &str, stored: Tensor) -> Result<Tensor> {
        match self.heads.heads(name) {
            None => Ok(stored),
            Some(heads) => {
                names::half_split(&stored, heads).map_err(Error::torch(name, &self.path))
            }
        }
    }

    /// Plain numbers are libtorch's own; blocks are candle's to expand.
    fn decode(&self, name: &str, dtype: GgmlDType, bytes: &[u8]) -> Result<Tensor> {
        let elements = bytes.len() / dtype.type_size() * dtype.block_size();
        let tensor = match plain(dtype) {
            Some(kind) => Tensor::f_from_data_size(bytes, &[elements as i64], kind),
            None => {
                let cpu = candle_core::Device::Cpu;
                let values = ggml_file::qtensor_from_ggml(dtype, bytes, vec![elements], &cpu)
                    .and_then(|blocks| blocks.dequantize(&cpu))
                    .and_then(|values| values.to_vec1::<f32>())
                    .map_err(|why| {
                        Error::corrupt(&self.path, format!("{name} cannot be expanded: {why}"))
                    })?;
                Tensor::f_from_slice(&values)
            }
        };
        tensor.map_err(Error::torch(name, &self.path))
    }
}
