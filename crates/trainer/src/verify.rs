use crate::{Error, Result};
use layers::{Scope, Targets};
use models::{Activations, AdapterConfig, AdapterWeights, Checkpoint, Decoder, Inputs, LoraWeights, TensorFile};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// One compared tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Its name in the file of expected values.
    pub name: String,
    /// The largest difference of an element.
    pub largest: f64,
    /// The norm of the difference, relative to that of the expected tensor.
    pub relative: f64,
    /// Whether that is within the tolerance; or, for a gradient, whether the difference is nothing but rounding.
    pub holds: bool,
}

/// Computes in f32, without dropout, what another program recorded of a model, and compares: `logits`, `loss`, every `grad.PARAMETER`, and with the LoRA pairs
/// `lora.weight.*` the same under `lora.`.
///
/// `expected` also holds the inputs: `input_ids` `[batch, tokens]`, `labels` (−100: ignored), and `attention_mask` with padding at the right,
/// where logits are not compared. A gradient that ought to be zero (of a bias that the softmax cancels, say) is rounding in both programs: a
/// difference below the precision of f32, relative to the largest recorded gradient, holds. A pair's scale is `alpha / r` with `lora_alpha` from the file's metadata, else `alpha = 2 r`.
///
/// # Errors
/// [`Error::Model`] if either file cannot be read, or a recorded gradient is of a parameter that the model has not.
pub fn verify(model: &Path, expected: &Path, tolerance: f64) -> Result<Vec<Compared>> {
    let checkpoint = Checkpoint::open(model)?;
    let file = TensorFile::open(expected)?;
    let mut decoder = Decoder::load(&checkpoint, Kind::Float, Device::Cpu)?;
    let batch = Recorded::read(&file)?;
    let mut rows = Vec::new();

    decoder.train_weights(true);
    batch.compare(&decoder, &file, "", "", tolerance, &mut rows)?;

    let weights = lora_weights(&file)?;
    if let Some(first) = weights.modules.first() {
        let rank = first.a.size()[0];
        let alpha = file.metadata().and_then(|metadata| metadata.get("lora_alpha")?.parse().ok()).unwrap_or(2.0 * rank as f64);
        let config = AdapterConfig { r: rank, lora_alpha: alpha, ..AdapterConfig::default() };
        decoder.train_weights(false);
        decoder.add_lora(&config, Some(&weights), 0, expected)?;
        batch.compare(&decoder, &file, "lora.", "base_model.model.", tolerance, &mut rows)?;
    }
    Ok(rows)
}

/// The inputs of a recorded computation.
struct Recorded {
    ids: Tensor,
    targets: Targets,
    /// Rows of the flattened logits that mean something.
    compared: Tensor,
}

impl Recorded {
    fn read(file: &TensorFile) -> Result<Self> {
        let ids = file.tensor("input_ids")?;
        let mask = match file.shape("attention_mask") {
            Some(_) => file.tensor("attention_mask")?,
            None => ids.f_ones_like()?,
        };
        let labels = file.tensor("labels")?;
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
        Ok(Self { ids, targets: Targets::new(&targets)?, compared })
    }

    /// Compares everything the file has under `prefix`; gradients are named after the parameter with `module_prefix` in front.
    fn compare(
        &self,
        decoder: &Decoder,
        file: &TensorFile,
        prefix: &str,
        module_prefix: &str,
        tolerance: f64,
        rows: &mut Vec<Compared>,
    ) -> Result<()> {
        let scope = Scope::evaluation();
        let hidden = decoder.hidden(&Inputs::rows(self.ids.shallow_clone()), &Activations::default(), &scope)?;
        let mut check = |name: String, ours: &Tensor, expected: &Tensor| {
            rows.push(compare(name, ours, expected, tolerance, 0.0)?);
            Ok::<_, Error>(())
        };
        let logits = {
            let _mode = autograd::GradMode::disabled();
            decoder.logits(&hidden)?.f_flatten(0, 1)?.f_index_select(0, &self.compared)?
        };
        let name = format!("{prefix}logits");
        check(name.clone(), &logits, &file.tensor(&name)?.f_flatten(0, 1)?.f_index_select(0, &self.compared)?)?;
        let loss = decoder.loss(&hidden, &self.targets, 1.0 / self.targets.count().max(1) as f64, 0, &scope)?;
        let name = format!("{prefix}loss");
        check(name.clone(), &loss, &file.tensor(&name)?)?;

        let start = format!("{prefix}grad.");
        let mut names = file.names();
        names.retain(|name| name.starts_with(&start));
        names.sort();
        let trained = decoder.trained();
        let wanted: Vec<&Tensor> = names
            .iter()
            .map(|name| {
                let path = &name[start.len()..];
                let found = trained.iter().find(|parameter| format!("{module_prefix}{}", parameter.name()) == path);
                let missing = || models::Error::UnexpectedTensor { tensor: name.clone(), file: file.path().to_owned() };
                Ok(found.ok_or_else(missing)?.tensor())
            })
            .collect::<Result<_>>()?;
        let gradients = autograd::grad(&[&loss], &wanted, &[None], false, false)?;
        let recorded: Vec<Tensor> = names.iter().map(|name| file.tensor(name)).collect::<std::result::Result<_, _>>()?;
        let mut largest = 0.0;
        for expected in &recorded {
            largest = norm(expected)?.max(largest);
        }
        for ((name, gradient), expected) in names.into_iter().zip(gradients).zip(recorded) {
            let gradient = match gradient {
                Some(gradient) => gradient,
                None => expected.f_zeros_like()?,
            };
            rows.push(compare(name, &gradient, &expected, tolerance, f64::from(f32::EPSILON) * largest)?);
        }
        Ok(())
    }
}

/// The Euclidean norm, computed in f64.
fn norm(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])?)
}

/// `rounding` is the norm of a difference that means nothing.
fn compare(name: String, ours: &Tensor, expected: &Tensor, tolerance: f64, rounding: f64) -> Result<Compared> {
    let (ours, expected) = (ours.f_to_kind(Kind::Double)?, expected.f_to_kind(Kind::Double)?);
    if ours.size() != expected.size() {
        return Err(Error::Input(format!("{name}: the recorded tensor has shape {:?}, the model's {:?}", expected.size(), ours.size())));
    }
    let difference = ours.f_sub(&expected)?;
    let (apart, scale) = (norm(&difference)?, norm(&expected)?);
    let relative = apart / if scale > 0.0 { scale } else { 1.0 };
    let largest = if difference.numel() == 0 { 0.0 } else { difference.f_abs()?.f_max()?.f_double_value(&[])? };
    Ok(Compared { name, largest, relative, holds: relative <= tolerance || apart <= rounding })
}

/// The pairs recorded as `lora.weight.base_model.model.MODULE.lora_A.weight` and `lora_B`.
fn lora_weights(file: &TensorFile) -> Result<AdapterWeights> {
    let mut weights = AdapterWeights::default();
    for name in file.names() {
        let module = name.strip_prefix("lora.weight.base_model.model.").and_then(|name| name.strip_suffix(".lora_A.weight"));
        if let Some(module) = module {
            let b = file.tensor(&format!("lora.weight.base_model.model.{module}.lora_B.weight"))?;
            let (module, a) = (module.to_owned(), file.tensor(&name)?);
            weights.modules.push(LoraWeights { module, a, b, magnitude: None, initial: None });
        }
    }
    Ok(weights)
}
