//! Writes a Llama with random weights, and random tokens to train it on: for measuring speed and
//! memory at a shape of interest.
//!
//! `cargo run --release -p loract-examples --bin random_llama -- FOLDER [key=value ...]`, the keys
//! with their defaults: `hidden=512 layers=8 mlp=1408 heads=8 kv_heads=heads vocab=32000 batch=8
//! tokens=512 steps=4 dtype=f32`. FOLDER then holds `config.json` and `model.safetensors` in the
//! layout of Hugging Face, and `batches.safetensors` for `[data] train`.

use anyhow::{Context, anyhow, bail};
use autograd::random::{Distribution, draw};
use models::{Decoder, ModelConfig, tensor_file};
use std::{collections::BTreeMap, path::Path};
use tch::{Device, Kind, Tensor};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .context("name a folder, then key=value pairs, as the head of this program says")?;
    let defaults = "hidden=512 layers=8 mlp=1408 heads=8 kv_heads=heads vocab=32000 batch=8 tokens=512 steps=4 dtype=f32";
    let given: Vec<String> = arguments.collect();
    let mut keys = BTreeMap::new();
    for pair in defaults.split(' ').chain(given.iter().map(String::as_str)) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| anyhow!("{pair:?} is not key=value"))?;
        if keys.insert(key, value).is_none() && !defaults.contains(&format!("{key}=")) {
            bail!("{key:?} is none of the keys; they are {defaults}");
        }
    }
    let number =
        |key: &str| keys[key].parse::<i64>().with_context(|| format!("{key} = {}", keys[key]));
    let kind = match keys["dtype"] {
        "f32" => Kind::Float,
        "bf16" => Kind::BFloat16,
        other => bail!("dtype = {other}; it is f32 or bf16"),
    };
    let (hidden, heads) = (number("hidden")?, number("heads")?);
    let kv_heads = if keys["kv_heads"] == "heads" { heads } else { number("kv_heads")? };
    std::fs::create_dir_all(&folder)?;
    let folder = Path::new(&folder);
    let json = format!(
        r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {heads},
"num_key_value_heads": {kv_heads}, "vocab_size": {}, "max_position_embeddings": {}, "tie_word_embeddings": false}}
"#,
        number("mlp")?,
        number("layers")?,
        number("vocab")?,
        number("tokens")?.max(2048)
    );
    let file = folder.join("config.json");
    std::fs::write(&file, json)?;
    let config = ModelConfig::read(&file)?;
    let random = |seed: usize, shape: &[i64]| -> anyhow::Result<Tensor> {
        // Norms of one; matrices as transformers initialises them.
        if shape.len() == 1 {
            return Ok(Tensor::ones(shape, (kind, Device::Cpu)));
        }
        Ok((draw(Distribution::Normal, shape, Kind::Float, Device::Cpu, seed as u64)? * 0.02)
            .to_kind(kind))
    };
    let tensors = Decoder::tensor_shapes(&config)
        .into_iter()
        .enumerate()
        .map(|(seed, (name, shape))| Ok((name, random(seed, &shape)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    tensor_file::write(&folder.join("model.safetensors"), &tensors, &[("format", "pt")])?;

    let shape = [number("steps")?, number("batch")?, number("tokens")?];
    let ids = (draw(Distribution::Uniform, &shape, Kind::Double, Device::Cpu, 1)?
        * config.vocab_size as f64)
        .to_kind(Kind::Int64);
    tensor_file::write(&folder.join("batches.safetensors"), &[("batches".into(), ids)], &[])?;
    let parameters: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    println!(
        "{}: a Llama of {:.1} million parameters, {} steps of {} x {} tokens",
        folder.display(),
        parameters as f64 / 1e6,
        shape[0],
        shape[1],
        shape[2]
    );
    Ok(())
}
