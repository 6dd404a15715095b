//! LoRA adapters as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The layout is that of PEFT's `LoraConfig` and `save_pretrained` (0.21). What PEFT knows and this
//! crate does not compute (trained biases, layers replicated, …) is refused by name, never ignored.

mod config;
mod convert;
mod target;

pub use config::{AdapterConfig, LayerNumbers, TargetModules};
pub use target::check_pattern;

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::config::fields::Fields;
use crate::{Error, Labels, Result, TensorFile, tensor_file};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const LABELS: &str = "labels.json";
/// What PEFT's wrappers put before the path of a module in the base model.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MAGNITUDE: &str = ".lora_magnitude_vector";

/// The two factors that are trained in addition to one linear layer.
#[derive(Debug)]
pub struct LoraWeights {
    /// The layer's path in the base model: `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// The factor applied first, `[rank, in]`.
    pub a: Tensor,
    /// The factor applied second, `[out, rank]`.
    pub b: Tensor,
    /// With DoRA, the norms of the rows of the updated weight, `[out]`.
    pub magnitude: Option<Tensor>,
    /// With PiSSA, what A and B began as: the part of the base weight that is not in the base any
    /// more.
    pub initial: Option<(Tensor, Tensor)>,
}

/// The weights of an adapter.
#[derive(Debug, Default)]
pub struct AdapterWeights {
    /// The pairs.
    pub modules: Vec<LoraWeights>,
    /// The weights of the modules that were trained whole, by their names in the base model.
    pub saved: Vec<(String, Tensor)>,
}

/// An adapter: its configuration and its weights, in the order of the modules' paths.
#[derive(Debug)]
pub struct Adapter {
    /// The configuration.
    pub config: AdapterConfig,
    /// The weights, in float32 on the CPU.
    pub weights: AdapterWeights,
}

/// Writes an adapter into the directory `folder`, which is made if need be: first the weights
/// (float32), then the configuration, each whole or not at all. A PiSSA adapter is written as the
/// plain one of twice the rank that does the same to the unchanged base, as PEFT converts it.
///
/// # Errors
/// [`Error::Adapter`] if a rank is not what `config` says, [`Error::UnsupportedOption`],
/// [`Error::Io`] or [`Error::Torch`].
pub fn write_adapter(
    folder: &Path,
    config: &AdapterConfig,
    weights: &AdapterWeights,
) -> Result<()> {
    if config.is_pissa() {
        let (config, weights) = convert::plain(folder, config, weights)?;
        return write_adapter(folder, &config, &weights);
    }
    let path = folder.join(CONFIG);
    let text = config.to_json(&path)?;
    config::check_supported(&path, &text)?;
    if weights.modules.is_empty() {
        return Err(Error::Adapter {
            path: folder.to_owned(),
            why: "there are no modules to write".into(),
        });
    }
    let mut tensors = Vec::with_capacity(2 * weights.modules.len());
    let mut put = |name: String, tensor: &Tensor| {
        let tensor = tensor
            .f_detach()
            .and_then(|tensor| tensor.f_to_kind(Kind::Float))
            .map_err(Error::torch(&name, folder))?;
        tensors.push((name, tensor));
        Ok::<_, Error>(())
    };
    for pair in &weights.modules {
        let module = &pair.module;
        check_shapes(folder, config, module, &pair.a.size(), &pair.b.size())?;
        check_magnitude(
            folder,
            config,
            module,
            &pair.b.size(),
            pair.magnitude.as_ref().map(Tensor::size),
        )?;
        for (suffix, tensor) in
            [(A, Some(&pair.a)), (B, Some(&pair.b)), (MAGNITUDE, pair.magnitude.as_ref())]
        {
            if let Some(tensor) = tensor {
                put(format!("{PREFIX}{module}{suffix}"), tensor)?;
            }
        }
    }
    for (name, tensor) in &weights.saved {
        put(format!("{PREFIX}{name}"), tensor)?;
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    tensor_file::write(&folder.join(WEIGHTS), &tensors, &[("format", "pt")])?;
    Ok(files::write(&path, &text)?)
}

/// Writes the names of a classifier's classes beside its adapter, whole or not at all:
/// `labels.json` with `id2label` and `label2id`, which PEFT's files have no place for.
///
/// # Errors
/// [`Error::Io`].
pub fn write_labels(folder: &Path, labels: &Labels) -> Result<()> {
    let path = folder.join(LABELS);
    let text = serde_json::to_string_pretty(&labels.to_json());
    let text =
        text.map_err(|why| Error::Io { path: path.clone(), action: "write", source: why.into() })?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    Ok(files::write(&path, &text)?)
}

/// Reads what [`write_labels`] wrote; absent where nothing was.
///
/// # Errors
/// [`Error::Io`], [`Error::Corrupt`], [`Error::InvalidConfig`].
pub fn read_labels(folder: &Path) -> Result<Option<Labels>> {
    let path = folder.join(LABELS);
    let text = match crate::file::read_to_string(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io(&path, "read"))?,
    };
    let table = serde_json::from_str(&text)
        .map_err(|why| Error::corrupt(&path, format!("it is not a JSON table: {why}")))?;
    Labels::read(&Fields::new(&path, &table)).map(Some)
}

/// Reads the adapter in the directory `folder`.
///
/// # Errors
/// [`Error::MissingFile`], [`Error::Corrupt`], [`Error::UnsupportedOption`],
/// [`Error::UnexpectedTensor`] for a tensor that is not a LoRA factor, or [`Error::Adapter`] where
/// weights and configuration do not agree.
pub fn read_adapter(folder: &Path) -> Result<Adapter> {
    let config = AdapterConfig::read(&folder.join(CONFIG))?;
    let path = folder.join(WEIGHTS);
    if !path.exists() {
        let remedy = match folder.join("adapter_model.bin").exists() {
            true => {
                "there is an adapter_model.bin: save the adapter again with safe_serialization=True"
            }
            false => "give a directory that PEFT or loract wrote",
        };
        return Err(Error::MissingFile { path, remedy: remedy.into() });
    }
    let file = TensorFile::open(&path)?;
    let read = |name: &str| file.tensor_as(name, Kind::Float, Device::Cpu);
    let mut weights = AdapterWeights::default();
    let (pairs, saved) = sorted(&file, &config)?;
    for name in saved {
        weights.saved.push((name[PREFIX.len()..].to_owned(), read(&name)?));
    }
    for (module, Names { a, b, magnitude }) in pairs {
        let (Some(a), Some(b)) = (&a, &b) else {
            let lacking = if a.is_none() { "lora_A" } else { "lora_B" };
            let why = format!("{module} has no {lacking}; save the adapter again");
            return Err(Error::Adapter { path: folder.to_owned(), why });
        };
        let shape = |name: &str| file.shape(name).unwrap_or_default().to_vec();
        check_shapes(folder, &config, &module, &shape(a), &shape(b))?;
        check_magnitude(folder, &config, &module, &shape(b), magnitude.as_deref().map(shape))?;
        let magnitude = magnitude.map(|name| read(&name)).transpose()?;
        weights.modules.push(LoraWeights {
            a: read(a)?,
            b: read(b)?,
            module,
            magnitude,
            initial: None,
        });
    }
    if weights.modules.is_empty() {
        let why = format!("{WEIGHTS} holds no modules; save the adapter again");
        return Err(Error::Adapter { path: folder.to_owned(), why });
    }
    Ok(Adapter { config, weights })
}

/// The names of the tensors of one module, as far as the file has them.
#[derive(Default)]
struct Names {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
}

/// The tensors' names by module, and those of modules that were trained whole.
fn sorted(
    file: &TensorFile,
    config: &AdapterConfig,
) -> Result<(BTreeMap<String, Names>, Vec<String>)> {
    let mut pairs: BTreeMap<String, Names> = BTreeMap::new();
    let mut saved = Vec::new();
    for name in file.names() {
        let path = name.strip_prefix(PREFIX).unwrap_or_default();
        let mut of = |module: &str| std::mem::take(pairs.entry(module.to_owned()).or_default());
        let (module, names) = if let Some(module) = path.strip_suffix(A) {
            (module, Names { a: Some(name.clone()), ..of(module) })
        } else if let Some(module) = path.strip_suffix(B) {
            (module, Names { b: Some(name.clone()), ..of(module) })
        } else if let Some(module) = path.strip_suffix(MAGNITUDE) {
            (module, Names { magnitude: Some(name.clone()), ..of(module) })
        } else if config.saves(path) {
            saved.push(name);
            continue;
        } else {
            return Err(Error::UnexpectedTensor { tensor: name, file: file.path().to_owned() });
        };
        pairs.insert(module.to_owned(), names);
    }
    saved.sort();
    Ok((pairs, saved))
}

fn check_magnitude(
    folder: &Path,
    config: &AdapterConfig,
    module: &str,
    b: &[i64],
    magnitude: Option<Vec<i64>>,
) -> Result<()> {
    let unusable = |why: String| Err(Error::Adapter { path: folder.to_owned(), why });
    match (config.use_dora, magnitude) {
        (false, None) => Ok(()),
        (true, Some(size)) if size == b[..1] => Ok(()),
        (true, Some(size)) => unusable(format!(
            "{module} has a magnitude {size:?}, expected [{}]; save the adapter again",
            b[0]
        )),
        (true, None) => unusable(format!(
            "{module} has no lora_magnitude_vector, which use_dora promises; save the adapter again"
        )),
        (false, Some(_)) => {
            unusable(format!("{module} has a lora_magnitude_vector; set use_dora in {CONFIG}"))
        }
    }
}

fn check_shapes(
    folder: &Path,
    config: &AdapterConfig,
    module: &str,
    a: &[i64],
    b: &[i64],
) -> Result<()> {
    let unusable = |why: String| Err(Error::Adapter { path: folder.to_owned(), why });
    if let Some(table) = config.ambiguity(module) {
        return unusable(format!(
            "two entries of {table} fit {module} and differ; keep one of them"
        ));
    }
    let rank = config.rank_of(module);
    match (a, b) {
        ([a_rank, inputs], [outputs, b_rank])
            if a_rank == b_rank && *inputs > 0 && *outputs > 0 =>
        {
            if *a_rank == rank {
                return Ok(());
            }
            unusable(format!(
                "{module} has rank {a_rank}, its configuration says {rank}; correct r or rank_pattern"
            ))
        }
        _ => unusable(format!(
            "{module} has A {a:?} and B {b:?}, expected [rank, in] and [out, rank]; save the adapter again"
        )),
    }
}

#[cfg(test)]
mod tests;
