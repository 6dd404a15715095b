//! A decoder with what an adapter trains: pairs beside its linear layers, and modules trained whole.

use super::Decoder;
use crate::{AdapterConfig, AdapterWeights, Error, Linear, ModelConfig, Result};
use autograd::Parameter;
use std::path::Path;
use std::sync::Arc;
use tch::Tensor;

impl Decoder {
    /// The paths of the linear layers of all blocks, as adapters name them.
    pub fn linear_paths(config: &ModelConfig) -> Vec<String> {
        let listed = Self::new(&crate::tensors::Tensors::list(), config);
        listed.iter().flat_map(Self::linears).map(|linear| linear.path().to_owned()).collect()
    }

    /// The names of all parameters, a head that is the embedding having its own.
    pub fn parameter_names(config: &ModelConfig) -> Vec<String> {
        let head = config.tie_embeddings.then(|| format!("{}.weight", config.names.head));
        Self::expected(config).into_iter().map(|(name, _)| name).chain(head).collect()
    }

    /// Puts LoRA pairs beside the linear layers that `config` targets: those of `weights` where they are given, else new ones drawn from
    /// `seed`. The modules that it saves are trained whole; a head or an embedding among them is tied to the other no longer, as in PEFT.
    ///
    /// # Errors
    /// [`Error::Adapter`], with `place` as its path, if nothing is targeted, or the weights do not fit the model.
    pub fn add_lora(&mut self, config: &AdapterConfig, weights: Option<&AdapterWeights>, seed: u64, place: &Path) -> Result<()> {
        let refuse = |why: String| Err(Error::Adapter { path: place.to_owned(), why });
        let given = weights.map(|weights| &weights.modules[..]);
        if let Some(unknown) = given.unwrap_or_default().iter().find(|pair| !self.linears().any(|linear| linear.path() == pair.module)) {
            return refuse(format!("it has weights for {}, and this model has no such layer", unknown.module));
        }
        let mut added = 0;
        for block in &mut self.blocks {
            let Some(block) = Arc::get_mut(block) else { return refuse("the model is in use".into()) };
            for linear in block.linears_mut() {
                let pair = match given.map(|given| given.iter().find(|pair| pair.module == linear.path())) {
                    Some(None) => continue,
                    Some(Some(pair)) => Some(pair),
                    None if config.targets(linear.path()) => None,
                    None => continue,
                };
                let (outputs, inputs) = linear.size();
                if let Some(pair) = pair.filter(|pair| pair.a.size()[1] != inputs || pair.b.size()[0] != outputs) {
                    let (a, b, size) = (pair.a.size(), pair.b.size(), [outputs, inputs]);
                    return refuse(format!("{}: A {a:?} and B {b:?} do not fit a weight {size:?}", linear.path()));
                }
                let rank = config.rank_of(linear.path());
                if config.is_pissa() && rank > outputs.min(inputs) {
                    let why = format!("{}: PiSSA has no rank {rank} of a weight {:?}; lower it there", linear.path(), [outputs, inputs]);
                    return refuse(why);
                }
                linear.add_lora(config, pair, seed).map_err(|why| Error::Adapter { path: place.to_owned(), why: why.to_string() })?;
                added += 1;
            }
        }
        if added == 0 {
            return refuse("target_modules names no layer of this model; try \"all-linear\"".into());
        }
        self.save_modules(config, place)?;
        weights.map_or(Ok(()), |weights| self.load_saved(&weights.saved, place))
    }

    /// Freezes every A (LoRA-FA, arXiv 2308.03303): a linear layer then keeps its input's narrow projection only.
    pub fn freeze_lora_a(&self) {
        let pairs = self.linears().filter_map(Linear::lora);
        pairs.for_each(|(a, _)| drop(a.set_requires_grad(false)));
    }

    /// Trains whole what `config` saves.
    fn save_modules(&mut self, config: &AdapterConfig, place: &Path) -> Result<()> {
        let head = format!("{}.weight", self.config.names.head);
        if self.config.tie_embeddings && (config.saves(&head) || config.saves(self.embedding.name())) {
            let in_use = || Error::Adapter { path: place.to_owned(), why: "the model is in use".into() };
            Arc::get_mut(&mut self.tail).ok_or_else(in_use)?.untie(head.clone()).map_err(Error::torch(&head, place))?;
        }
        for parameter in self.parameters().into_iter().filter(|parameter| !is_of_pair(parameter) && config.saves(parameter.name())) {
            let _ = parameter.set_requires_grad(true);
        }
        Ok(())
    }

    fn load_saved(&self, saved: &[(String, Tensor)], place: &Path) -> Result<()> {
        let parameters = self.parameters();
        let _mode = autograd::GradMode::disabled();
        for (name, tensor) in saved {
            let unexpected = || Error::UnexpectedTensor { tensor: name.clone(), file: place.to_owned() };
            let parameter = parameters.iter().find(|parameter| parameter.name() == name).ok_or_else(unexpected)?;
            if parameter.size() != tensor.size() {
                let (expected, got) = (parameter.size(), tensor.size());
                return Err(Error::Shape { tensor: name.clone(), file: place.to_owned(), expected, got });
            }
            parameter.shallow_clone().f_copy_(tensor).map_err(Error::torch(name, place))?;
        }
        Ok(())
    }

    /// What is trained, as an adapter holds it.
    pub fn lora_weights(&self) -> AdapterWeights {
        let whole = self.trained().into_iter().filter(|parameter| !is_of_pair(parameter));
        AdapterWeights {
            modules: self.linears().filter_map(Linear::lora_weights).collect(),
            saved: whole.map(|parameter| (parameter.name().to_owned(), parameter.shallow_clone())).collect(),
        }
    }
}

fn is_of_pair(parameter: &Parameter) -> bool {
    parameter.name().contains(".lora_")
}
