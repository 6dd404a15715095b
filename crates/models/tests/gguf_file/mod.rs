//! GGUF files written with candle.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};

/// A Llama of two layers that fits blocks of 256, as a GGUF file of `dtype`.
pub fn gguf(folder: &Path, dtype: GgmlDType, tied: bool) -> PathBuf {
    let (hidden, inner, heads, keys, vocabulary) =
        (256_usize, 512_usize, 4_usize, 2_usize, 320_usize);
    let mut shapes = vec![
        ("token_embd".to_owned(), vec![vocabulary, hidden]),
        ("output_norm".to_owned(), vec![hidden]),
    ];
    shapes.extend((!tied).then(|| ("output".to_owned(), vec![vocabulary, hidden])));
    for layer in 0..2 {
        let one = |name: &str, shape: &[usize]| (format!("blk.{layer}.{name}"), shape.to_vec());
        shapes.extend([
            one("attn_q", &[hidden, hidden]),
            one("attn_k", &[hidden / 2, hidden]),
            one("attn_v", &[hidden / 2, hidden]),
        ]);
        shapes.extend([
            one("attn_output", &[hidden, hidden]),
            one("ffn_gate", &[inner, hidden]),
            one("ffn_up", &[inner, hidden]),
        ]);
        shapes.extend([
            one("ffn_down", &[hidden, inner]),
            one("attn_norm", &[hidden]),
            one("ffn_norm", &[hidden]),
        ]);
    }
    let tensors: Vec<(String, QTensor)> = shapes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| {
            let count = shape.iter().product::<usize>();
            let wave =
                |index: usize| ((index as f64 * 0.37 + seed as f64).powi(2) * 0.01).sin() as f32;
            let values = (0..count)
                .map(|index| if shape.len() == 1 { 1.0 } else { 0.06 * wave(index) })
                .collect::<Vec<f32>>();
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
            let values =
                candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap();
            (format!("{name}.weight"), QTensor::quantize(&values, dtype).unwrap())
        })
        .collect();
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(2)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(hidden as u32)),
        ("llama.feed_forward_length", Value::U32(inner as u32)),
        ("llama.attention.head_count", Value::U32(heads as u32)),
        ("llama.attention.head_count_kv", Value::U32(keys as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32((hidden / heads) as u32)),
    ];
    let path = folder.join(format!("{dtype:?}.gguf"));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    path
}
