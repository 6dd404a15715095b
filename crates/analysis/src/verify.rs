use std::path::Path;

use tch::{Device, Kind, Tensor};

use layers::{Scope, Targets};
use models::{
    Activations, AdapterConfig, AdapterWeights, Architecture, Checkpoint, Classifier, Decoder,
    EncoderInputs, InputConfig, Inputs, LoraWeights, Model, TensorFile,
};

use crate::{Error, Result};

/// One compared tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorComparison {
    /// Its name in the file of expected values.
    pub name: String,
    /// The largest difference of an element.
    pub largest: f64,
    /// The norm of the difference, relative to that of the expected tensor.
    pub relative: f64,
    /// Whether that is within the tolerance; or, for a gradient, whether the difference is nothing
    /// but rounding.
    pub holds: bool,
}

/// Computes on `device` in f32, without dropout, what another program recorded of a model, and
/// compares: `logits`, `loss`, every `grad.PARAMETER`, and with the LoRA pairs `lora.weight.*` the
/// same under `lora.`.
///
/// `expected` also holds the inputs: `input_ids` `[batch, tokens]` or `pixel_values` `[batch,
/// channels, height, width]`, and `labels`: for a language model one for each token (−100:
/// ignored), for a classifier one for each row, or one for each row and class. With `input_ids`,
/// `attention_mask`, for a language model with padding at the right, where logits are not compared,
/// and `token_type_ids`. A gradient that ought to be zero (of a bias that the softmax cancels, say)
/// is rounding in both programs: a difference below the precision of f32, relative to the largest
/// recorded gradient, holds. A pair's scale is `alpha / r` with `lora_alpha` from the file's
/// metadata, else `alpha = 2 r`.
///
/// # Errors
/// [`Error::Setup`] if either file cannot be read, or a recorded gradient is of a parameter that
/// the model has not; [`Error::Input`] if the recorded tensors do not fit together, or the model.
pub fn verify(
    model: &Path,
    expected: &Path,
    tolerance: f64,
    device: Device,
) -> Result<Vec<TensorComparison>> {
    let checkpoint = Checkpoint::open(model)?;
    let file = TensorFile::open(expected)?;
    let mut subject = Subject::read(&checkpoint, &file, device)?;
    let mut rows = Vec::new();

    subject.model().train_weights(true);
    subject.compare(&file, "", "", tolerance, &mut rows)?;

    let weights = lora_weights(&file)?;
    if let Some(first) = weights.modules.first() {
        let rank = first.a.size()[0];
        let alpha = file
            .metadata()
            .and_then(|metadata| metadata.get("lora_alpha")?.parse().ok())
            .unwrap_or(2.0 * rank as f64);
        let config = AdapterConfig { r: rank, lora_alpha: alpha, ..AdapterConfig::default() };
        subject.model().train_weights(false);
        subject.model_mut().add_lora(&config, Some(&weights), 0, expected)?;
        subject.compare(&file, "lora.", "base_model.model.", tolerance, &mut rows)?;
    }
    Ok(rows)
}

/// A model and the inputs of a recorded computation.
enum Subject {
    Language {
        decoder: Box<Decoder>,
        ids: Tensor,
        targets: Targets,
        /// Rows of the flattened logits that mean something.
        compared: Tensor,
    },
    Classes {
        classifier: Box<Classifier>,
        inputs: EncoderInputs,
        labels: Tensor,
    },
}

impl Subject {
    fn read(checkpoint: &Checkpoint, file: &TensorFile, device: Device) -> Result<Self> {
        let tensor = |name: &str| Ok::<_, Error>(file.tensor(name)?.f_to_device(device)?);
        let optional = |name: &str| file.shape(name).is_some().then(|| tensor(name)).transpose();
        let labels = tensor("labels")?;
        let mask = optional("attention_mask")?;
        if let Architecture::Encoder(config) = checkpoint.architecture() {
            let inputs = match &config.input {
                InputConfig::Text(_) => EncoderInputs::Text {
                    ids: tensor("input_ids")?,
                    present: mask,
                    types: optional("token_type_ids")?,
                },
                InputConfig::Image(_) => EncoderInputs::Images(tensor("pixel_values")?),
            };
            let classifier = Box::new(Classifier::load(checkpoint, None, 0, Kind::Float, device)?);
            if let Some(lacking) = classifier.drawn().first() {
                let remedy =
                    "verify compares a whole classifier: give one whose checkpoint holds its head";
                return Err(Error::Input(format!(
                    "{} has no {lacking}; {remedy}",
                    checkpoint.path().display()
                )));
            }
            return Ok(Self::Classes { classifier, inputs, labels });
        }
        let ids = tensor("input_ids")?;
        let mask = match mask {
            Some(mask) => mask,
            None => ids.f_ones_like()?,
        };
        if ids.dim() != 2 || labels.size() != ids.size() || mask.size() != ids.size() {
            let (ids, labels) = (ids.size(), labels.size());
            return Err(Error::Input(format!(
                "{}: input_ids {ids:?}, labels {labels:?} and attention_mask must be [batch, tokens] alike",
                file.path().display()
            )));
        }
        // Token t predicts label t + 1.
        let targets = Tensor::f_full_like(&labels, -100)?;
        let tokens = labels.size()[1];
        targets.f_narrow(1, 0, tokens - 1)?.f_copy_(&labels.f_narrow(1, 1, tokens - 1)?)?;
        let compared = mask.f_flatten(0, -1)?.f_nonzero()?.f_flatten(0, -1)?;
        let decoder = Box::new(Decoder::load(checkpoint, Kind::Float, device)?);
        Ok(Self::Language { decoder, ids, targets: Targets::new(&targets)?, compared })
    }

    fn model(&self) -> &dyn Model {
        match self {
            Self::Language { decoder, .. } => &**decoder,
            Self::Classes { classifier, .. } => &**classifier,
        }
    }

    fn model_mut(&mut self) -> &mut dyn Model {
        match self {
            Self::Language { decoder, .. } => &mut **decoder,
            Self::Classes { classifier, .. } => &mut **classifier,
        }
    }

    /// The logits and the loss.
    fn run(&self) -> std::result::Result<(Tensor, Tensor), layers::Error> {
        let (activations, scope) = (Activations::default(), Scope::evaluation());
        match self {
            Self::Language { decoder, ids, targets, .. } => {
                let hidden =
                    decoder.forward(&Inputs::rows(ids.shallow_clone()), &activations, &scope)?;
                let logits = {
                    let _mode = autograd::GradMode::disabled();
                    decoder.logits(&hidden)?
                };
                Ok((
                    logits,
                    decoder.loss(
                        &hidden,
                        targets,
                        1.0 / targets.count().max(1) as f64,
                        0,
                        &scope,
                    )?,
                ))
            }
            Self::Classes { classifier, inputs, labels } => {
                let logits = classifier.logits(inputs, &activations, &scope)?;
                let loss = classifier.losses(&logits, labels, None)?.mean()?;
                Ok((logits.detach(), loss))
            }
        }
    }

    /// The logits that are compared.
    fn meaningful(&self, logits: &Tensor) -> Result<Tensor> {
        match self {
            Self::Language { compared, .. } => {
                Ok(logits.f_flatten(0, 1)?.f_index_select(0, compared)?)
            }
            Self::Classes { .. } => Ok(logits.shallow_clone()),
        }
    }

    /// Compares everything the file has under `prefix`; gradients are named after the parameter
    /// with `module_prefix` in front.
    fn compare(
        &self,
        file: &TensorFile,
        prefix: &str,
        module_prefix: &str,
        tolerance: f64,
        rows: &mut Vec<TensorComparison>,
    ) -> Result<()> {
        let misfit = |fault: layers::Error| match fault {
            layers::Error::Shape { .. } => {
                Error::Input(format!("{}: {fault}", file.path().display()))
            }
            other => other.into(),
        };
        let (logits, loss) = self.run().map_err(misfit)?;
        for (name, ours) in [("logits", &logits), ("loss", &loss)] {
            let name = format!("{prefix}{name}");
            let expected = file.tensor(&name)?.f_to_device(ours.device())?;
            let (ours, expected) = match ours.dim() {
                0 => (ours.shallow_clone(), expected),
                _ => (self.meaningful(ours)?, self.meaningful(&expected)?),
            };
            rows.push(compare(name, &ours, &expected, tolerance, 0.0)?);
        }

        let start = format!("{prefix}grad.");
        let mut names = file.names();
        names.retain(|name| name.starts_with(&start));
        names.sort();
        let trained = self.model().trained();
        let wanted: Vec<&Tensor> = names
            .iter()
            .map(|name| {
                let path = &name[start.len()..];
                let found = trained
                    .iter()
                    .find(|parameter| format!("{module_prefix}{}", parameter.name()) == path);
                let missing = || models::Error::UnexpectedTensor {
                    tensor: name.clone(),
                    file: file.path().to_owned(),
                };
                Ok(found.ok_or_else(missing)?.tensor())
            })
            .collect::<Result<_>>()?;
        let gradients = autograd::grad(&[&loss], &wanted, &[None], false, false)?;
        let recorded: Vec<Tensor> =
            names.iter().map(|name| file.tensor(name)).collect::<std::result::Result<_, _>>()?;
        let mut largest = 0.0;
        for expected in &recorded {
            largest = norm(expected)?.max(largest);
        }
        for ((name, gradient), expected) in names.into_iter().zip(gradients).zip(recorded) {
            let gradient = match gradient {
                Some(gradient) => gradient,
                None => expected.f_zeros_like()?,
            };
            rows.push(compare(
                name,
                &gradient,
                &expected,
                tolerance,
                f64::from(f32::EPSILON) * largest,
            )?);
        }
        Ok(())
    }
}

/// The Euclidean norm, computed in f64.
fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])?)
}

/// `rounding` is the norm of a difference that means nothing.
fn compare(
    name: String,
    ours: &Tensor,
    expected: &Tensor,
    tolerance: f64,
    rounding: f64,
) -> Result<TensorComparison> {
    let on_cpu = |tensor: &Tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
    let (ours, expected) = (on_cpu(ours)?, on_cpu(expected)?);
    if ours.size() != expected.size() {
        return Err(Error::Input(format!(
            "{name}: the recorded tensor has shape {:?}, the model's {:?}",
            expected.size(),
            ours.size()
        )));
    }
    let difference = ours.f_sub(&expected)?;
    let (apart, scale) = (norm(&difference)?, norm(&expected)?);
    let relative = apart / if scale > 0.0 { scale } else { 1.0 };
    let largest = if difference.numel() == 0 {
        0.0
    } else {
        difference.f_abs()?.f_max()?.f_double_value(&[])?
    };
    Ok(TensorComparison {
        name,
        largest,
        relative,
        holds: relative <= tolerance || apart <= rounding,
    })
}

/// The pairs recorded as `lora.weight.base_model.model.MODULE.lora_A.weight` and `lora_B`.
fn lora_weights(file: &TensorFile) -> Result<AdapterWeights> {
    let mut weights = AdapterWeights::default();
    for name in file.names() {
        let module = name
            .strip_prefix("lora.weight.base_model.model.")
            .and_then(|name| name.strip_suffix(".lora_A.weight"));
        if let Some(module) = module {
            let b = file.tensor(&format!("lora.weight.base_model.model.{module}.lora_B.weight"))?;
            let (module, a) = (module.to_owned(), file.tensor(&name)?);
            weights.modules.push(LoraWeights { module, a, b, magnitude: None, initial: None });
        }
    }
    Ok(weights)
}
