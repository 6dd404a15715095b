//! GGUF files written here with candle, in the names and the row order of llama.cpp's converter.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::*;

const HIDDEN: i64 = 256;
const MLP: i64 = 512;
const HEADS: i64 = 4;
const KV_HEADS: i64 = 2;
const HEAD_DIM: i64 = 64;
const VOCAB: i64 = 40;
/// Bytes that certainly hold the whole header of `sample`.
const HEADER: u64 = 3000;

/// A model of one layer, in Hugging Face's names and layout.
fn model(tied: bool) -> BTreeMap<String, Tensor> {
    let config = ModelConfig {
        model_type: "llama".into(),
        hidden_size: HIDDEN,
        intermediate_size: MLP,
        num_layers: 1,
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        vocab_size: VOCAB,
        max_positions: 128,
        norm_eps: 1e-5,
        rope: crate::RopeConfig { theta: 1e5, scaling: crate::RopeScaling::None },
        tie_embeddings: tied,
        ..ModelConfig::template(&crate::config::names::LLAMA)
    };
    let mut tensors = BTreeMap::new();
    for (seed, (name, shape)) in expected(&config).into_iter().enumerate() {
        // Values in (-1, 1) that no two rows share, without a random generator.
        let count: i64 = shape.iter().product();
        let phase = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.37 + seed as f64;
        tensors.insert(
            name,
            (phase.square() * 0.01).sin().view(shape.as_slice()).to_kind(Kind::Float),
        );
    }
    tensors
}

fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// `permute` of llama.cpp's converter.
fn permute(tensor: &Tensor, heads: i64) -> Tensor {
    let shape = tensor.size();
    tensor.reshape([heads, 2, shape[0] / heads / 2, -1]).transpose(1, 2).reshape(&shape)
}

fn metadata() -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let tokens = (0..VOCAB).map(|id| Value::String(format!("t{id}"))).collect();
    let types = (0..VOCAB).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
    vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(MLP as u32)),
        ("llama.attention.head_count", Value::U32(HEADS as u32)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS as u32)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(1e5)),
        ("llama.rope.dimension_count", Value::U32(HEAD_DIM as u32)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", Value::Array(vec![text("t 1"), text("t 2")])),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.chat_template", text("{{ messages }}")),
    ]
}

fn write(
    path: &Path,
    metadata: &[(&str, Value)],
    model: &BTreeMap<String, Tensor>,
    dtype: GgmlDType,
) {
    let quantised: Vec<(String, QTensor)> = model
        .iter()
        .map(|(name, tensor)| {
            let stored = match name.as_str() {
                name if name.contains("q_proj") => permute(tensor, HEADS),
                name if name.contains("k_proj") => permute(tensor, KV_HEADS),
                _ => tensor.shallow_clone(),
            };
            let shape: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
            let values = Vec::<f32>::try_from(stored.reshape([-1])).unwrap();
            let values =
                candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap();
            // Converters leave norms unquantised.
            let dtype = if tensor.dim() == 1 { GgmlDType::F32 } else { dtype };
            (gguf_name(name), QTensor::quantize(&values, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        quantised.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// A file of plain floats, small enough to break in thousands of ways.
fn sample() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, &metadata(), &model(false), GgmlDType::F16);
    (dir, path)
}

/// The largest difference that storing in `dtype` may cause in a row: half a quantization step of
/// its block for plain formats, a whole one where the scale itself is rounded.
fn tolerance(dtype: GgmlDType) -> f64 {
    match dtype {
        GgmlDType::F32 => 0.0,
        GgmlDType::F16 => 2f64.powi(-11),
        GgmlDType::BF16 => 2f64.powi(-8),
        // Values lie in (-1, 1): a block spans at most 2. 16 levels, 32 levels, 255 levels. The
        // formats without an offset clip the far end of their range by up to one step.
        GgmlDType::Q4_0 => 1.0 / 8.0 + 1e-3,
        GgmlDType::Q4_1 => 2.0 / 15.0 / 2.0 + 2e-3,
        GgmlDType::Q5_0 => 1.0 / 16.0 + 1e-3,
        GgmlDType::Q5_1 => 2.0 / 31.0 / 2.0 + 2e-3,
        GgmlDType::Q8_0 => 1.0 / 127.0 / 2.0 + 1e-3,
        // K-quants: 4, 3, 4, 5, 6 bits, with scales in 4 to 8 bits on top.
        GgmlDType::Q2K => 0.45,
        GgmlDType::Q3K => 0.30,
        GgmlDType::Q4K => 0.12,
        GgmlDType::Q5K => 0.07,
        GgmlDType::Q6K => 0.05,
        other => panic!("no tolerance for {other:?}"),
    }
}

#[test]
fn every_format_comes_back_within_its_step_in_the_layout_of_hugging_face() {
    use GgmlDType::*;
    let model = model(false);
    let dir = tempfile::tempdir().unwrap();
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let path = dir.path().join(format!("{dtype:?}.gguf"));
        write(&path, &metadata(), &model, dtype);
        let checkpoint = Checkpoint::open(&path).unwrap();
        checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap();
        for (name, tensor) in &model {
            let got = checkpoint.tensor(name, Kind::Float, Device::Cpu).unwrap();
            assert_eq!(got.size(), tensor.size(), "{dtype:?} {name}");
            assert!(got.is_contiguous());
            let difference = (&got - tensor).abs().max().double_value(&[]);
            assert!(difference <= tolerance(dtype), "{dtype:?} {name}: {difference}");
        }
    }
}

#[test]
fn metadata_become_configuration_and_tokenizer() {
    let (_dir, path) = sample();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(
        (config.num_heads, config.num_kv_heads, config.head_dim),
        (HEADS, KV_HEADS, HEAD_DIM)
    );
    assert_eq!((config.vocab_size, config.max_positions), (VOCAB, 128));
    assert_eq!((config.norm_eps, config.rope.theta), (1e-5, 1e5));
    assert!(!config.tie_embeddings);
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), [2].as_slice()));
    let TokenizerSource::Gguf(tokenizer) = checkpoint.tokenizer() else { panic!("no tokenizer") };
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!((tokenizer.tokens.len(), tokenizer.tokens[7].as_str()), (VOCAB as usize, "t7"));
    assert_eq!(tokenizer.merges, ["t 1", "t 2"]);
    assert_eq!(tokenizer.token_types[..4], [3, 3, 3, 1]);
    assert_eq!(
        (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.pad),
        (Some(1), Some(2), None, None)
    );
    assert!(tokenizer.add_bos);
    assert_eq!(checkpoint.chat_templates().default.as_deref(), Some("{{ messages }}"));
    assert_eq!(checkpoint.bytes_on_disk(), std::fs::metadata(&path).unwrap().len());
}

#[test]
fn a_file_without_an_output_projection_is_tied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tied.gguf");
    write(&path, &metadata(), &model(true), GgmlDType::Q8_0);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(checkpoint.config().unwrap().tie_embeddings);
    checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap();
}

#[test]
fn biases_of_queries_and_keys_are_put_in_order_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bias.gguf");
    let mut model = model(false);
    let bias = Tensor::arange(HEADS * HEAD_DIM, (Kind::Float, Device::Cpu));
    model.insert("model.layers.0.self_attn.q_proj.bias".into(), bias.shallow_clone());
    write(&path, &metadata(), &model, GgmlDType::F32);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(checkpoint.config().unwrap().attention.bias);
    let got = checkpoint
        .tensor("model.layers.0.self_attn.q_proj.bias", Kind::Float, Device::Cpu)
        .unwrap();
    assert!(got.equal(&bias));
}

#[test]
fn unknown_tensors_and_wrong_shapes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("odd.gguf");
    let mut odd = model(false);
    odd.insert(
        "blk.0.ffn_gate_exps.weight".into(),
        Tensor::zeros([1, HIDDEN], (Kind::Float, Device::Cpu)),
    );
    write(&path, &metadata(), &odd, GgmlDType::F32);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let refused = checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap_err();
    assert!(
        matches!(refused, Error::UnexpectedTensor { tensor, .. } if tensor == "blk.0.ffn_gate_exps.weight")
    );

    let mut odd = model(false);
    odd.insert("model.norm.weight".into(), Tensor::zeros([HIDDEN + 2], (Kind::Float, Device::Cpu)));
    write(&path, &metadata(), &odd, GgmlDType::F32);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let refused = checkpoint.check(&expected(checkpoint.config().unwrap())).unwrap_err();
    assert!(matches!(refused, Error::Shape { got, .. } if got == [HIDDEN + 2]));

    let mut odd = model(false);
    odd.insert(
        "model.layers.0.self_attn.k_proj.weight".into(),
        Tensor::zeros([6, HIDDEN], (Kind::Float, Device::Cpu)),
    );
    // The converter could not have written this; six rows do not make pairs in two heads.
    let stored = odd.remove("model.layers.0.self_attn.k_proj.weight").unwrap();
    odd.insert("blk.0.attn_k.weight".into(), stored);
    write(&path, &metadata(), &odd, GgmlDType::F32);
    assert!(matches!(Checkpoint::open(&path), Err(Error::Corrupt { .. })));
}

#[test]
fn metadata_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    let cases = [
        ("general.architecture", Value::String("mamba".into()), "supported: llama"),
        ("llama.block_count", Value::String("many".into()), "llama.block_count"),
        (
            "llama.feed_forward_length",
            Value::Array(vec![Value::U32(512)]),
            "llama.feed_forward_length",
        ),
        ("llama.attention.head_count_kv", Value::U32(3), "llama.attention.head_count_kv"),
        ("llama.rope.freq_base", Value::F32(f32::NAN), "llama.rope.freq_base"),
        ("llama.embedding_length", Value::U64(u64::MAX), "llama.embedding_length"),
        ("tokenizer.ggml.bos_token_id", Value::U32(4000), "tokenizer.ggml.bos_token_id"),
        ("tokenizer.ggml.tokens", Value::Array(vec![Value::U8(1)]), "tokenizer.ggml.tokens"),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)]), "token types"),
        ("general.alignment", Value::U32(0), "general.alignment is zero"),
        ("general.alignment", Value::String("wide".into()), "general.alignment"),
        (
            "x",
            Value::Array(vec![Value::Array(vec![Value::Array(vec![Value::Array(vec![
                Value::Array(vec![Value::U8(1)]),
            ])])])]),
            "nest",
        ),
    ];
    for (key, value, told) in cases {
        let mut metadata = metadata();
        metadata.retain(|(name, _)| *name != key);
        metadata.push((key, value));
        write(&path, &metadata, &model(false), GgmlDType::F16);
        let refused = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(refused.contains(told), "{key}: {refused}");
        assert!(refused.contains("bad.gguf"), "{key}: {refused}");
    }
    let mut twice = metadata();
    twice.push(("llama.block_count", Value::U32(2)));
    write(&path, &twice, &model(false), GgmlDType::F16);
    let refused = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(refused.contains("two entries of one name"), "{refused}");
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let (_dir, path) = sample();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len();
    // Ever shorter: a sample of the lengths within the data, then every length within the header.
    // The last 31 bytes may be padding.
    let lengths = (HEADER..whole - 31).rev().step_by(997).chain((0..HEADER).rev());
    for length in lengths {
        file.set_len(length).unwrap();
        let refused = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(refused, Error::Corrupt { .. }), "{length}: {refused}");
    }
}

#[test]
fn a_file_cut_short_after_opening_is_an_error() {
    let (_dir, path) = sample();
    let checkpoint = Checkpoint::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let read = checkpoint.tensor("lm_head.weight", Kind::Float, Device::Cpu);
    let last = checkpoint.tensor("model.layers.0.mlp.up_proj.weight", Kind::Float, Device::Cpu);
    assert!(matches!(last, Err(Error::Io { .. })) || matches!(read, Err(Error::Io { .. })));
}

#[test]
fn a_damaged_header_never_panics_nor_takes_much_memory() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    let header = HEADER as usize;
    let open = |bytes: &[u8]| {
        // Only the header is read by opening: keep the file's length without writing the data again
        // and again.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        Checkpoint::open(&path)
    };
    for at in 0..header {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = whole[..header].to_vec();
            damaged[at] ^= damage;
            // What opens (a changed letter of a token) must also be readable or refused.
            if let Ok(checkpoint) = open(&damaged) {
                let _ = checkpoint.tensor("model.norm.weight", Kind::Float, Device::Cpu);
            }
        }
    }
    // Lengths and counts, eight bytes at a time, as large as they can be.
    for at in 0..header - 8 {
        for value in [u64::MAX, 1 << 62, 1 << 40, (1 << 30) - 1] {
            let mut damaged = whole[..header].to_vec();
            damaged[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            let _ = open(&damaged);
        }
    }
    open(&whole[..header]).unwrap();
}

#[test]
fn headers_from_other_versions_and_machines_are_refused() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, &damaged).unwrap();
        Checkpoint::open(&path).unwrap_err().to_string()
    };
    assert!(with(0, b"FUGG").contains("does not begin with GGUF"));
    assert!(with(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(with(4, &4u32.to_le_bytes()).contains("version 4"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("tensors"));
}

#[test]
fn an_array_that_would_fill_the_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("array.gguf");
    // One metadata entry `x`: an array of two thousand million single bytes, all of them in the
    // (sparse) file. Parsed, they would take 64 GB.
    let count = 2_000_000_000u64;
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    for number in [0u64, 1, 1] {
        header.extend(number.to_le_bytes());
    }
    header.extend(b"x");
    header.extend(9u32.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    header.extend(count.to_le_bytes());
    std::fs::write(&path, &header).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(header.len() as u64 + count)
        .unwrap();
    let refused = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(refused.contains("array elements"), "{refused}");
}
