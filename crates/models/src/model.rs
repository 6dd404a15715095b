//! What training needs of a model, whatever that computes: its parameters, and an adapter in it.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use autograd::Parameter;
use layers::QuantizedWeight;

use crate::{AdapterConfig, AdapterWeights, Error, Linear, LoraWeights, Result};

/// A model whose weights may be trained, or pairs added to them.
pub trait Model {
    /// Every parameter once, LoRA pairs included, in the order of the forward.
    fn parameters(&self) -> Vec<&Parameter>;

    /// The weights that are held quantized, which are no parameters, in the order of the forward.
    fn quantized_weights(&self) -> Vec<&QuantizedWeight> {
        Vec::new()
    }

    /// Embeddings of which a forward reads one row per token and nothing else, so that their
    /// gradients are sparse: not one that is the head, too.
    fn sparse_grad_embeddings(&self) -> Vec<&Parameter> {
        Vec::new()
    }

    /// The linear layers that adapters may target.
    fn linears(&self) -> Vec<&Linear>;

    /// As [`Model::linears`]; none while a forward that backward is still to follow holds them.
    fn linears_mut(&mut self) -> Option<Vec<&mut Linear>>;

    /// Gives a weight of its own to whatever `config` saves and shares one with another part.
    ///
    /// # Errors
    /// [`Error::Adapter`] while the model is in use; those of libtorch.
    fn untie(&mut self, _config: &AdapterConfig, _place: &Path) -> Result<()> {
        Ok(())
    }

    /// Where the weights are.
    fn device(&self) -> Device {
        self.parameters().first().map_or(Device::Cpu, |parameter| parameter.device())
    }

    /// The dtype of the weights, and of the hidden states.
    fn kind(&self) -> Kind {
        self.parameters().first().map_or(Kind::Float, |parameter| parameter.kind())
    }

    /// The parameters that require gradients.
    fn trained(&self) -> Vec<&Parameter> {
        self.parameters().into_iter().filter(|parameter| parameter.requires_grad()).collect()
    }

    /// Lets every weight of the model itself require gradients, or none.
    fn train_weights(&self, train: bool) {
        for parameter in self.parameters().into_iter().filter(|parameter| !is_of_pair(parameter)) {
            let _ = parameter.set_requires_grad(train);
        }
    }

    /// Adds LoRA pairs to the linear layers that `config` targets: those of `weights` where they
    /// are given, else new ones drawn from `seed`. The modules that it saves are trained whole; a
    /// head or an embedding among them is tied to the other no longer, as in PEFT.
    ///
    /// # Errors
    /// [`Error::Adapter`], with `place` as its path, if nothing is targeted, or the weights do not
    /// fit the model.
    fn add_lora(
        &mut self,
        config: &AdapterConfig,
        weights: Option<&AdapterWeights>,
        seed: u64,
        place: &Path,
    ) -> Result<()> {
        let refuse = |why: String| Err(Error::Adapter { path: place.to_owned(), why });
        let given = weights.map(|weights| &weights.modules[..]);
        check_modules(&self.linears(), given.unwrap_or_default(), place)?;
        let Some(linears) = self.linears_mut() else { return refuse("the model is in use".into()) };
        let mut added = 0;
        for linear in linears {
            let pair =
                match given.map(|given| given.iter().find(|pair| pair.module == linear.path())) {
                    Some(None) => continue,
                    Some(Some(pair)) => Some(pair),
                    None if config.targets(linear.path()) => None,
                    None => continue,
                };
            add_pair(linear, config, pair, seed, place)?;
            added += 1;
        }
        if added == 0 {
            return refuse(
                "target_modules names no layer of this model; try \"all-linear\"".into(),
            );
        }
        self.untie(config, place)?;
        for parameter in self
            .parameters()
            .into_iter()
            .filter(|parameter| !is_of_pair(parameter) && config.saves(parameter.name()))
        {
            let _ = parameter.set_requires_grad(true);
        }
        match weights {
            Some(weights) => self.load_saved(&weights.saved, place),
            None => Ok(()),
        }
    }

    /// Freezes every A (LoRA-FA, arXiv 2308.03303): a linear layer then saves its input's narrow
    /// projection only.
    fn freeze_lora_a(&self) {
        let pairs = self.linears().into_iter().filter_map(Linear::lora);
        pairs.for_each(|(a, _)| drop(a.set_requires_grad(false)));
    }

    /// Fills the weights of modules that were trained whole.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] and [`Error::Shape`], with `place` as the file; those of
    /// libtorch.
    fn load_saved(&self, saved: &[(String, Tensor)], place: &Path) -> Result<()> {
        let parameters = self.parameters();
        let _mode = autograd::GradMode::disabled();
        for (name, tensor) in saved {
            let unexpected =
                || Error::UnexpectedTensor { tensor: name.clone(), file: place.to_owned() };
            let parameter = parameters
                .iter()
                .find(|parameter| parameter.name() == name)
                .ok_or_else(unexpected)?;
            if parameter.size() != tensor.size() {
                let (expected, got) = (parameter.size(), tensor.size());
                return Err(Error::Shape {
                    tensor: name.clone(),
                    file: place.to_owned(),
                    expected,
                    got,
                });
            }
            parameter.shallow_clone().f_copy_(tensor).map_err(Error::torch(name, place))?;
        }
        Ok(())
    }

    /// What is trained, as an adapter holds it.
    fn lora_weights(&self) -> AdapterWeights {
        let whole = self.trained().into_iter().filter(|parameter| !is_of_pair(parameter));
        AdapterWeights {
            modules: self.linears().into_iter().filter_map(Linear::lora_weights).collect(),
            saved: whole
                .map(|parameter| (parameter.name().to_owned(), parameter.shallow_clone()))
                .collect(),
        }
    }
}

/// Refuses pairs for layers that there are not.
///
/// # Errors
/// [`Error::Adapter`], with `place` as its path.
pub(crate) fn check_modules(known: &[&Linear], pairs: &[LoraWeights], place: &Path) -> Result<()> {
    match pairs.iter().find(|pair| !known.iter().any(|linear| linear.path() == pair.module)) {
        None => Ok(()),
        Some(unknown) => {
            let why =
                format!("it has weights for {}, and this model has no such layer", unknown.module);
            Err(Error::Adapter { path: place.to_owned(), why })
        }
    }
}

/// Adds a pair to a layer: the one given, if it fits, else a new one.
///
/// # Errors
/// [`Error::Adapter`], with `place` as its path, if it does not fit.
pub(crate) fn add_pair(
    linear: &mut Linear,
    config: &AdapterConfig,
    pair: Option<&LoraWeights>,
    seed: u64,
    place: &Path,
) -> Result<()> {
    let refuse = |why: String| Err(Error::Adapter { path: place.to_owned(), why });
    let (outputs, inputs) = linear.size();
    if let Some(pair) =
        pair.filter(|pair| pair.a.size()[1] != inputs || pair.b.size()[0] != outputs)
    {
        let (a, b, size) = (pair.a.size(), pair.b.size(), [outputs, inputs]);
        return refuse(format!(
            "{}: A {a:?} and B {b:?} do not fit a weight {size:?}",
            linear.path()
        ));
    }
    let rank = config.rank_of(linear.path());
    if config.is_pissa() && linear.weight().quantized().is_some() {
        return refuse(format!(
            "{}: PiSSA changes the weight, which is quantized; load the model without quantization",
            linear.path()
        ));
    }
    if config.is_pissa() && rank > outputs.min(inputs) {
        return refuse(format!(
            "{}: PiSSA has no rank {rank} of a weight {:?}; lower it there",
            linear.path(),
            [outputs, inputs]
        ));
    }
    linear
        .add_lora(config, pair, seed)
        .map_err(|why| Error::Adapter { path: place.to_owned(), why: why.to_string() })
}

fn is_of_pair(parameter: &Parameter) -> bool {
    parameter.name().contains(".lora_")
}
