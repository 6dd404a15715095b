//! A model with an adapter merged into its weights, in the files of Hugging Face.
//!
//! Tensor by tensor, in f32, rounded once: apart from the files' headers, one shard is in memory at
//! a time, whatever the size of the model.

mod description;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::decoder::adapted::unties;
use crate::model::{add_pair, check_modules};
use crate::{Adapter, Checkpoint, Decoder, Error, Linear, LoraWeights, Model, Result, tensor_file};

/// How a merged model is written.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// The dtype of all weights; absent: each is stored as in the base, f32 where that is
    /// quantized.
    pub kind: Option<Kind>,
    /// The most bytes of weights in a file, if it holds more than one tensor.
    pub shard_bytes: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Modules that the adapter has changed.
    pub modules: usize,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The names of the files that hold them.
    pub files: Vec<String>,
}

/// Writes `model.safetensors`, or `model-00001-of-0000N.safetensors` with their index, and
/// `config.json` into the directory `folder`: the model of `checkpoint` in the names and layouts of
/// Hugging Face, which computes without an adapter what it computed with `adapter`, which lies at
/// `place`. `progress` is told how many bytes are written, of how many.
///
/// # Errors
/// Those of [`Checkpoint::check`]; [`Error::Adapter`] where the adapter does not fit the model;
/// those of writing.
pub fn merge(
    checkpoint: &Checkpoint,
    adapter: &Adapter,
    place: &Path,
    options: &MergeOptions,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Merged> {
    let model = checkpoint.config()?;
    checkpoint.check(&Decoder::tensor_shapes(model))?;
    let decoder = Decoder::listed(model)?;
    check_modules(&decoder.linears(), &adapter.weights.modules, place)?;
    let weights = weights(checkpoint, adapter, &decoder, place, options)?;
    let shards = shards(&weights, options.shard_bytes);
    let bytes: u64 = weights.iter().map(Weight::bytes).sum();

    let (mut files, mut map, mut done) = (Vec::new(), Map::new(), 0);
    for (index, shard) in shards.iter().enumerate() {
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let path = folder.join(&file);
        let mut tensors = Vec::with_capacity(shard.len());
        for weight in *shard {
            progress(done, bytes);
            tensors.push((weight.name.clone(), weight.tensor(checkpoint, adapter, place)?));
            map.insert(weight.name.clone(), file.clone().into());
            done += weight.bytes();
        }
        tensor_file::write(&path, &tensors, &[("format", "pt")])?;
        files.push(file);
    }
    if shards.len() > 1 {
        map.sort_keys();
        write_json(
            &folder.join("model.safetensors.index.json"),
            &json!({"metadata": {"total_size": bytes}, "weight_map": map}),
        )?;
    }
    let kind = options.kind.or_else(|| checkpoint.kind(&weights[0].name)).unwrap_or(Kind::Float);
    write_json(
        &folder.join("config.json"),
        &description::describe(checkpoint, kind, unties(model, &adapter.config))?,
    )?;
    let parameters = weights.iter().map(Weight::elements).sum();
    Ok(Merged {
        modules: adapter.weights.modules.len() + saved_modules(adapter),
        parameters,
        bytes,
        files,
    })
}

/// Modules that were trained whole.
fn saved_modules(adapter: &Adapter) -> usize {
    let mut modules: Vec<&str> = adapter
        .weights
        .saved
        .iter()
        .filter_map(|(name, _)| Some(name.rsplit_once('.')?.0))
        .collect();
    modules.sort_unstable();
    modules.dedup();
    modules.len()
}

/// A weight to be written.
struct Weight<'a> {
    name: String,
    shape: Vec<i64>,
    kind: Kind,
    source: TensorSource<'a>,
}

/// Where it comes from.
enum TensorSource<'a> {
    /// From the base, under this name.
    Base(String),
    /// From the adapter, as it is.
    Saved(&'a Tensor),
    /// From the base, with a pair to be added.
    Lora(&'a Linear, &'a LoraWeights),
}

impl Weight<'_> {
    fn elements(&self) -> u64 {
        self.shape.iter().product::<i64>() as u64
    }

    fn bytes(&self) -> u64 {
        self.elements() * self.kind.elt_size_in_bytes() as u64
    }

    fn tensor(&self, checkpoint: &Checkpoint, adapter: &Adapter, place: &Path) -> Result<Tensor> {
        let torch = || Error::torch(&self.name, place);
        match &self.source {
            TensorSource::Base(name) => checkpoint.tensor(name, self.kind, Device::Cpu),
            TensorSource::Saved(tensor) => tensor.f_to_kind(self.kind).map_err(torch()),
            TensorSource::Lora(linear, pair) => {
                let mut linear = linear.read(checkpoint)?;
                add_pair(&mut linear, &adapter.config, Some(pair), 0, place)?;
                linear.merged().and_then(|weight| weight.f_to_kind(self.kind)).map_err(torch())
            }
        }
    }
}

/// All weights of the merged model, in the order of the forward.
fn weights<'a>(
    checkpoint: &Checkpoint,
    adapter: &'a Adapter,
    decoder: &'a Decoder,
    place: &Path,
    options: &MergeOptions,
) -> Result<Vec<Weight<'a>>> {
    let model = checkpoint.config()?;
    let mut expected: Vec<(String, Vec<i64>, String)> = Decoder::tensor_shapes(model)
        .into_iter()
        .map(|(name, shape)| (name.clone(), shape, name))
        .collect();
    if unties(model, &adapter.config) {
        // The head begins as the embedding is in the base.
        let embedding = format!("{}.weight", model.names.embedding);
        expected.push((
            format!("{}.weight", model.names.head),
            vec![model.vocab_size, model.hidden_size],
            embedding,
        ));
    }
    let mut pairs: HashMap<&str, (&Linear, &LoraWeights)> = HashMap::new();
    for pair in &adapter.weights.modules {
        let linear = decoder.linears().into_iter().find(|linear| linear.path() == pair.module);
        pairs.extend(linear.map(|linear| (linear.weight().name(), (linear, pair))));
    }
    let mut saved: HashMap<&str, &Tensor> =
        adapter.weights.saved.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    // What corrects the choice of experts is compared with scores in f32.
    let precise = model.names.experts.as_ref().and_then(|experts| experts.correction);

    let mut weights = Vec::with_capacity(expected.len());
    for (name, shape, base) in expected {
        let stored = checkpoint.kind(&base).unwrap_or(Kind::Float);
        let kind = if precise.is_some_and(|precise| name.ends_with(precise)) {
            stored
        } else {
            options.kind.unwrap_or(stored)
        };
        let source = match (saved.remove(name.as_str()), pairs.get(name.as_str())) {
            (Some(tensor), _) if tensor.size() != shape => {
                return Err(Error::Shape {
                    tensor: name,
                    file: place.to_owned(),
                    expected: shape,
                    got: tensor.size(),
                });
            }
            (Some(tensor), _) => TensorSource::Saved(tensor),
            (None, Some((linear, pair))) => TensorSource::Lora(linear, pair),
            (None, None) => TensorSource::Base(base),
        };
        weights.push(Weight { name, shape, kind, source });
    }
    match saved.into_keys().min() {
        Some(unknown) => {
            Err(Error::UnexpectedTensor { tensor: unknown.to_owned(), file: place.to_owned() })
        }
        None => Ok(weights),
    }
}

/// Cut, in order, into pieces of at most `most` bytes, where one holds more than one weight.
fn shards<'a, 'w>(weights: &'a [Weight<'w>], most: u64) -> Vec<&'a [Weight<'w>]> {
    let (mut shards, mut rest) = (Vec::new(), weights);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|weight| {
            bytes += weight.bytes();
            bytes <= most
        });
        let (shard, behind) = rest.split_at(fitting.count().max(1));
        shards.push(shard);
        rest = behind;
    }
    shards
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let io = |cause| Error::io(path, "write")(cause);
    let mut text = serde_json::to_vec_pretty(value).map_err(|cause| io(cause.into()))?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_filled_in_order_and_one_large_weight_has_a_file_of_its_own() {
        let weight = |elements: i64| Weight {
            name: String::new(),
            shape: vec![elements],
            kind: Kind::Half,
            source: TensorSource::Base(String::new()),
        };
        let weights: Vec<Weight<'_>> = [3, 2, 9, 1, 1, 1, 1, 1].map(weight).into();
        let sizes =
            |most| shards(&weights, most).iter().map(|shard| shard.len()).collect::<Vec<_>>();
        assert_eq!(sizes(10), [2, 1, 5]);
        assert_eq!(sizes(4), [1, 1, 1, 2, 2, 1]);
        assert_eq!(sizes(0), [1; 8]);
        assert_eq!(sizes(1000), [8]);
    }
}
