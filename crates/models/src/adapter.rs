//! LoRA adapters as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The layout is that of PEFT's `LoraConfig` and `save_pretrained` (0.21). What PEFT knows and this crate does not
//! compute (DoRA, trained biases, modules saved whole, …) is refused by name, never ignored.

mod config;

pub use config::{AdapterConfig, LayerNumbers, TargetModules};

use crate::{Error, Result, TensorFile, durable, tensor_file};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT's wrappers put before the path of a module in the base model.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// The two factors that are trained beside one linear layer.
#[derive(Debug)]
pub struct LoraWeights {
    /// The layer's path in the base model: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// The factor applied first, `[rank, in]`.
    pub a: Tensor,
    /// The factor applied second, `[out, rank]`.
    pub b: Tensor,
}

/// An adapter: its configuration and its weights, in the order of the modules' paths.
#[derive(Debug)]
pub struct Adapter {
    /// The configuration.
    pub config: AdapterConfig,
    /// The weights, in float32 on the CPU.
    pub modules: Vec<LoraWeights>,
}

/// Writes an adapter into the directory `folder`, which is made if need be: first the weights (float32), then the
/// configuration, each whole or not at all. `modules` are paths in the base model with A `[rank, in]` and
/// B `[out, rank]`.
///
/// # Errors
/// [`Error::Adapter`] if a rank is not what `config` says, [`Error::UnsupportedOption`], [`Error::Io`] or
/// [`Error::Torch`].
pub fn write_adapter(folder: &Path, config: &AdapterConfig, modules: &[(String, Tensor, Tensor)]) -> Result<()> {
    let path = folder.join(CONFIG);
    let text = config.to_json(&path)?;
    config::check_supported(&path, &text)?;
    if modules.is_empty() {
        return Err(Error::Adapter { path: folder.to_owned(), why: "there are no modules to write".into() });
    }
    let mut tensors = Vec::with_capacity(2 * modules.len());
    for (module, a, b) in modules {
        check_shapes(folder, config, module, &a.size(), &b.size())?;
        for (suffix, tensor) in [(A, a), (B, b)] {
            let name = format!("{PREFIX}{module}{suffix}");
            let tensor = tensor.f_detach().and_then(|tensor| tensor.f_to_kind(Kind::Float));
            let tensor = tensor.map_err(Error::torch(&name, folder))?;
            tensors.push((name, tensor));
        }
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    tensor_file::write(&folder.join(WEIGHTS), &tensors, &[("format", "pt")])?;
    durable::replace(&path, |aside| std::fs::write(aside, &text).map_err(Error::io(&path, "write")))
}

/// Reads the adapter in the directory `folder`.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::Corrupt`], [`Error::UnsupportedOption`], [`Error::UnexpectedTensor`] for a tensor
/// that is not a LoRA factor, or [`Error::Adapter`] where weights and configuration do not agree.
pub fn read_adapter(folder: &Path) -> Result<Adapter> {
    let config = AdapterConfig::read(&folder.join(CONFIG))?;
    let path = folder.join(WEIGHTS);
    if !path.exists() {
        let remedy = match folder.join("adapter_model.bin").exists() {
            true => "there is an adapter_model.bin: save the adapter again with safe_serialization=True",
            false => "give a directory that PEFT or loract wrote",
        };
        return Err(Error::MissingFile { path, remedy: remedy.into() });
    }
    let file = TensorFile::open(&path)?;
    let mut modules = Vec::new();
    for (module, names) in pairs(&file)? {
        let (Some(a), Some(b)) = names else {
            let lacking = if names.0.is_none() { "lora_A" } else { "lora_B" };
            let why = format!("{module} has no {lacking}; save the adapter again");
            return Err(Error::Adapter { path: folder.to_owned(), why });
        };
        let shape = |name: &str| file.shape(name).unwrap_or_default().to_vec();
        check_shapes(folder, &config, &module, &shape(&a), &shape(&b))?;
        let read = |name: &str| file.tensor_as(name, Kind::Float, Device::Cpu);
        modules.push(LoraWeights { a: read(&a)?, b: read(&b)?, module });
    }
    if modules.is_empty() {
        let why = format!("{WEIGHTS} holds no modules; save the adapter again");
        return Err(Error::Adapter { path: folder.to_owned(), why });
    }
    Ok(Adapter { config, modules })
}

/// The names of A and of B of one module, as far as the file has them.
type Pair = (Option<String>, Option<String>);

/// The tensors' names, by module.
fn pairs(file: &TensorFile) -> Result<BTreeMap<String, Pair>> {
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for name in file.names() {
        let path = name.strip_prefix(PREFIX).unwrap_or_default();
        if let Some(module) = path.strip_suffix(A).map(str::to_owned) {
            pairs.entry(module).or_default().0 = Some(name);
        } else if let Some(module) = path.strip_suffix(B).map(str::to_owned) {
            pairs.entry(module).or_default().1 = Some(name);
        } else {
            return Err(Error::UnexpectedTensor { tensor: name, file: file.path().to_owned() });
        }
    }
    Ok(pairs)
}

fn check_shapes(folder: &Path, config: &AdapterConfig, module: &str, a: &[i64], b: &[i64]) -> Result<()> {
    let unusable = |why: String| Err(Error::Adapter { path: folder.to_owned(), why });
    if let Some(table) = config.ambiguity(module) {
        return unusable(format!("two entries of {table} fit {module} and differ; keep one of them"));
    }
    let rank = config.rank_of(module);
    match (a, b) {
        ([a_rank, inputs], [outputs, b_rank]) if a_rank == b_rank && *inputs > 0 && *outputs > 0 => {
            if *a_rank == rank {
                return Ok(());
            }
            unusable(format!("{module} has rank {a_rank}, its configuration says {rank}; correct r or rank_pattern"))
        }
        _ => unusable(format!("{module} has A {a:?} and B {b:?}, expected [rank, in] and [out, rank]; save the adapter again")),
    }
}

#[cfg(test)]
mod tests;
