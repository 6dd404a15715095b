use crate::block::{Block, KeysAndValues, Shared};
use crate::{Activations, AdapterConfig, Checkpoint, Error, Linear, LoraWeights, ModelConfig, Result, TargetModules};
use autograd::Parameter;
use layers::{Mask, RotaryTable, Scope, Targets, embedding, loss_over_chunks, project, rms_norm, segment_mask};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// A decoder for causal language modelling (`LlamaForCausalLM` of transformers).
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    embedding: Parameter,
    blocks: Vec<Arc<Block>>,
    tail: Arc<Tail>,
}

/// What turns the last hidden states into logits: the final norm, and the head (the embedding itself if tied).
#[derive(Debug)]
struct Tail {
    norm: Parameter,
    head: Parameter,
    norm_eps: f64,
}

impl Tail {
    /// `[tokens, hidden]` to `[tokens, vocabulary]`, in f32 or better.
    fn logits(&self, hidden: &Tensor) -> std::result::Result<Tensor, layers::Error> {
        // Runs on a chunk of tokens at a time, inside the loss, and keeps nothing beyond it: it has no line in the ledger.
        let scope = Scope::evaluation();
        let normed = rms_norm(hidden, &self.norm, self.norm_eps, &layers::Keep::Exact, &scope)?;
        let head = layers::Projection { weight: self.head.tensor(), bias: None, lora: None };
        let logits = project(&normed, &[head], layers::Keep::Exact, &scope)?.remove(0);
        Ok(if logits.kind() == Kind::Double { logits } else { logits.f_to_kind(Kind::Float)? })
    }
}

/// A batch as a decoder reads it.
#[derive(Debug)]
pub struct Inputs {
    /// Token ids `[batch, tokens]`.
    pub ids: Tensor,
    /// Each token's position in its segment `[batch, tokens]`; absent: 0, 1, 2, … in every row.
    pub positions: Option<Tensor>,
    /// Each token's segment `[batch, tokens]` where rows are packed; absent: every row is one. A token attends to its own segment only.
    pub segments: Option<Tensor>,
}

impl Inputs {
    /// Rows of one segment each. Padding at the right needs no mask: no token attends to what comes after it.
    pub fn rows(ids: Tensor) -> Self {
        Self { ids, positions: None, segments: None }
    }
}

/// What generation remembers of the tokens already seen.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<KeysAndValues>,
    tokens: i64,
}

impl Decoder {
    /// The names and shapes of the tensors a checkpoint of this configuration must hold.
    pub fn expected(config: &ModelConfig) -> Vec<(String, Vec<i64>)> {
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, config.hidden_size]),
            ("model.norm.weight".to_owned(), vec![config.hidden_size]),
        ];
        if !config.tie_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, config.hidden_size]));
        }
        tensors.extend((0..config.num_layers).flat_map(|index| Block::expected(config, index)));
        tensors
    }

    /// Reads the weights as `kind` onto `device`, all of them frozen.
    ///
    /// # Errors
    /// Those of [`Checkpoint::check`] and [`Checkpoint::tensor`].
    pub fn load(checkpoint: &Checkpoint, kind: Kind, device: Device) -> Result<Self> {
        let config = checkpoint.config().clone();
        checkpoint.check(&Self::expected(&config))?;
        let load = |name: &str| Ok::<_, Error>(Parameter::new(name, checkpoint.tensor(name, kind, device)?));
        let embedding = load("model.embed_tokens.weight")?;
        let head = match config.tie_embeddings {
            true => Parameter::new(embedding.name(), embedding.shallow_clone()),
            false => load("lm_head.weight")?,
        };
        let blocks =
            (0..config.num_layers).map(|index| Block::load(checkpoint, index, kind, device).map(Arc::new)).collect::<Result<_>>()?;
        let tail = Arc::new(Tail { norm: load("model.norm.weight")?, head, norm_eps: config.norm_eps });
        Ok(Self { config, embedding, blocks, tail })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// The dtype of the weights, and of the hidden states.
    pub fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    /// Every parameter once, LoRA pairs included, in the order of the forward.
    pub fn parameters(&self) -> Vec<&Parameter> {
        let head = (!self.config.tie_embeddings).then_some(&self.tail.head);
        let blocks = self.blocks.iter().flat_map(|block| block.parameters());
        std::iter::once(&self.embedding).chain(blocks).chain([&self.tail.norm]).chain(head).collect()
    }

    /// The parameters that require gradients.
    pub fn trained(&self) -> Vec<&Parameter> {
        self.parameters().into_iter().filter(|parameter| parameter.requires_grad()).collect()
    }

    /// Lets every weight of the model itself require gradients, or none.
    pub fn train_weights(&self, train: bool) {
        let lora = |name: &str| name.contains(".lora_");
        for parameter in self.parameters().into_iter().filter(|parameter| !lora(parameter.name())) {
            let _ = parameter.set_requires_grad(train);
        }
    }

    /// The linear layers of all blocks.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.linears())
    }

    /// Puts LoRA pairs beside the linear layers that `config` targets: those of `weights` where they are given, else new ones drawn from
    /// `seed`.
    ///
    /// # Errors
    /// [`Error::Adapter`], with `place` as its path, if nothing is targeted, or the weights do not fit the model.
    pub fn add_lora(&mut self, config: &AdapterConfig, weights: Option<&[LoraWeights]>, seed: u64, place: &Path) -> Result<()> {
        let refuse = |why: String| Err(Error::Adapter { path: place.to_owned(), why });
        if let Some(unknown) = weights.unwrap_or_default().iter().find(|pair| !self.linears().any(|linear| linear.path() == pair.module)) {
            return refuse(format!("it has weights for {}, and this model has no such layer", unknown.module));
        }
        let mut added = 0;
        for block in &mut self.blocks {
            let Some(block) = Arc::get_mut(block) else { return refuse("the model is in use".into()) };
            for linear in block.linears_mut() {
                let given = weights.map(|weights| weights.iter().find(|pair| pair.module == linear.path()));
                let pair = match given {
                    Some(None) => continue,
                    Some(Some(pair)) => Some((&pair.a, &pair.b)),
                    None if targets(config, linear.path()) => None,
                    None => continue,
                };
                let size = linear.weight().size();
                if let Some((a, b)) = pair.filter(|(a, b)| a.size()[1] != size[1] || b.size()[0] != size[0]) {
                    return refuse(format!("{}: A {:?} and B {:?} do not fit a weight {size:?}", linear.path(), a.size(), b.size()));
                }
                linear.add_lora(config, pair, seed).map_err(|why| Error::Adapter { path: place.to_owned(), why: why.to_string() })?;
                added += 1;
            }
        }
        if added == 0 {
            return refuse("target_modules names no layer of this model; try \"all-linear\"".into());
        }
        Ok(())
    }

    /// The LoRA pairs as an adapter holds them: path, A, B.
    pub fn lora_weights(&self) -> Vec<(String, Tensor, Tensor)> {
        let pair = |linear: &Linear| linear.lora().map(|(a, b)| (linear.path().to_owned(), a.shallow_clone(), b.shallow_clone()));
        self.linears().filter_map(pair).collect()
    }

    fn shared(&self, inputs: &Inputs, first: i64, mask: Mask) -> std::result::Result<Shared, layers::Error> {
        let (tokens, device) = (inputs.ids.size()[1], self.device());
        let positions = match &inputs.positions {
            Some(positions) => positions.shallow_clone(),
            None => Tensor::f_arange_start(first, first + tokens, (Kind::Int64, device))?.f_view([1, tokens])?,
        };
        let frequencies = Tensor::f_from_slice(&self.config.rope.inverse_frequencies(self.config.head_dim))?.f_to_device(device)?;
        Ok(Shared { table: RotaryTable::new(&positions, &frequencies, 1.0, self.kind())?, mask })
    }

    /// The hidden states after the last block `[batch, tokens, hidden]`, before the final norm.
    ///
    /// # Errors
    /// Those of the operations, as an id outside the vocabulary.
    pub fn hidden(&self, inputs: &Inputs, activations: &Activations, scope: &Scope) -> std::result::Result<Tensor, layers::Error> {
        let mask = match &inputs.segments {
            Some(segments) => segment_mask(segments, self.kind())?,
            None => Mask::Causal,
        };
        let shared = self.shared(inputs, 0, mask)?;
        let mut x = embedding(&self.embedding, &inputs.ids)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &shared, activations.layer(index), &scope.layer(index))?;
        }
        Ok(x)
    }

    /// The logits of hidden states `[.., hidden]`: `[.., vocabulary]`, in f32 or better.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn logits(&self, hidden: &Tensor) -> std::result::Result<Tensor, layers::Error> {
        self.tail.logits(hidden)
    }

    /// `weight` times the sum of the losses at all targets, the logits of at most `chunk` tokens existing at a time (0: as many as take 64 MiB).
    ///
    /// # Errors
    /// Those of the operations.
    pub fn loss(
        &self,
        hidden: &Tensor,
        targets: &Targets,
        weight: f64,
        chunk: i64,
        scope: &Scope,
    ) -> std::result::Result<Tensor, layers::Error> {
        let chunk = if chunk > 0 { chunk } else { layers::chunk_tokens(self.config.vocab_size) };
        let tail = self.tail.clone();
        let parameters = [self.tail.norm.tensor(), self.tail.head.tensor()];
        let scope = scope.at(self.blocks.len() as u64);
        loss_over_chunks(move |hidden: &Tensor| tail.logits(hidden), hidden, &parameters, targets, weight, chunk, &scope)
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache {
        Cache { layers: self.blocks.iter().map(|_| None).collect(), tokens: 0 }
    }

    /// The logits `[vocabulary]` of the token that follows those in the cache and `ids` (one row, at least one); the cache then holds them too.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn next_logits(&self, ids: &[i64], cache: &mut Cache) -> std::result::Result<Tensor, layers::Error> {
        let _mode = autograd::GradMode::disabled();
        let inputs = Inputs::rows(Tensor::f_from_slice(ids)?.f_view([1, -1])?.f_to_device(self.device())?);
        let device = self.device();
        let config = &self.config;
        let mask = match (cache.tokens, ids.len()) {
            (0, _) => Mask::Causal,
            (_, 1) => Mask::Full,
            (seen, new) => {
                let new = new as i64;
                let later = Tensor::f_ones([new, seen + new], (Kind::Bool, device))?.f_triu(seen + 1)?;
                let mask = Tensor::f_zeros([1, 1, new, seen + new], (self.kind(), device))?;
                Mask::Additive(mask.f_masked_fill(&later, f64::NEG_INFINITY)?)
            }
        };
        let shared = self.shared(&inputs, cache.tokens, mask)?;
        let mut x = embedding(&self.embedding, &inputs.ids)?;
        for (block, seen) in self.blocks.iter().zip(&mut cache.layers) {
            if seen.is_none() {
                let empty = || Tensor::f_empty([1, 0, config.num_kv_heads, config.head_dim], (self.kind(), device));
                *seen = Some((empty()?, empty()?));
            }
            x = block.forward_after(&x, &shared, seen)?;
        }
        cache.tokens += ids.len() as i64;
        Ok(self.logits(&x.f_select(1, -1)?)?.f_view([-1])?)
    }
}

/// Whether an adapter's configuration is for the linear layer at `path`, by PEFT's rule: a name matches the end of the path.
fn targets(config: &AdapterConfig, path: &str) -> bool {
    match &config.target_modules {
        TargetModules::Pattern(pattern) => pattern == "all-linear",
        TargetModules::Names(names) => names.iter().any(|name| path == name || path.ends_with(&format!(".{name}"))),
    }
}
