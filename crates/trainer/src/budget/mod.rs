//! One budget of bytes for a token, over all layers and sites that are coded, so that the gradients suffer least.
//!
//! 1. The bases are held whatever the number of tokens, so how many layers share one follows from how many tokens there are.
//! 2. What a loss at a site costs the gradients is measured on a few tokens, site by site ([`sensitivity`]).
//! 3. What a site loses at each number of bits is known from its basis; bytes go where they save most ([`divide`]).
//!
//! What comes out is a plain `[activations]` table with overrides, as it could be written by hand.

mod divide;
mod sensitivity;

use crate::probe::Probe;
use crate::step::micro_batches;
use crate::{Error, Result, policy};
use collective::{ProcessGroup, Reduce};
use config::{Activations, Bits, Budget, CompressionConfig, CompressionOverrides, Factors, Layers, Override, Run, Site};
use data::{Batch, Dataset};
use divide::{Choice, LEVELS, divide, least};
use lowrank::coded::{Coded, Rate};
use models::ModelConfig;
use sensitivity::{Sensitivity, measure, places};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// The most tokens on which sensitivities are measured, but at least one sample.
const TOKENS: usize = 512;

/// What it costs the gradients that twice as many layers share a basis, in bits per element.
const BITS_FOR_TWICE_THE_SHARERS: f64 = 0.05;

/// A basis that follows its site is there twice meanwhile.
const BASES: u64 = 2;

/// A budget divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Division {
    /// Bytes for each token, bases included.
    pub bytes_per_token: f64,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Elements of all coded tensors for each token.
    pub elements_per_token: u64,
    /// Neighbouring layers that share a basis.
    pub basis_layers: usize,
    /// Bytes of all bases, each twice, as while they follow their sites.
    pub basis_bytes: u64,
    /// Bytes of all codes.
    pub code_bytes: u64,
    /// Each coded site of each layer.
    pub shares: Vec<Share>,
}

/// The share of one site of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// From 0.
    pub layer: usize,
    /// As `[activations] sites` calls it.
    pub site: String,
    /// Bits per element, all but the basis counted.
    pub bits: f64,
    /// The squared relative error of all gradients for each unit of the squared error of a token here.
    pub sensitivity: f64,
}

/// What bases and codes take at a model's coded sites.
struct Sizes {
    tokens: u64,
    /// The width of each coded tensor of a site in a layer: some sites have two.
    tensors: Vec<(Site, usize, i64)>,
    basis_bytes: fn(i64, &CompressionConfig) -> u64,
}

impl Division {
    /// Divides the budget of `run`, if it has one, for the model of `probe`; `samples` are this rank's of a step. All ranks come to the same, and
    /// must ask together.
    ///
    /// # Errors
    /// A budget that is too small, at its key; whatever fails in a forward or backward pass.
    pub(crate) fn of(
        run: &Run,
        probe: &Probe<'_>,
        samples: &Samples<'_>,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Self>> {
        let Some(budget) = run.activations.budget else { return Ok(None) };
        let tokens = (run.rows_at_once(group.world_size())? * run.data.sequence_length) as u64;
        let batch = samples.few(run.data.sequence_length)?;
        let mut found = measure(&run.activations, probe, &batch, tokens as i64, progress)?;
        agree(&mut found, group)?;
        Self::divided(run, budget, probe.decoder.config(), tokens, &found).map(Some)
    }

    fn divided(run: &Run, budget: Budget, model: &ModelConfig, tokens: u64, found: &[Sensitivity]) -> Result<Self> {
        let table = &run.activations;
        let sizes = Sizes::of(table, model, tokens, found);
        let elements = sizes.tensors.iter().map(|(.., width)| *width as u64).sum::<u64>();
        let bytes_per_token = match budget {
            Budget::Auto => Budget::AUTO_BITS * elements as f64 / 8.0,
            Budget::BytesPerToken(bytes) => bytes,
        };
        let layers = model.num_layers as usize;
        let basis_layers = table.basis_layers.unwrap_or_else(|| sizes.best_sharing(&table.compression, layers));
        let basis_bytes = sizes.basis_bytes(&table.compression, basis_layers);
        let choices: Vec<Choice> = found.iter().map(|of| sizes.choice(of)).collect::<Result<_>>()?;
        let whole = (bytes_per_token * tokens as f64) as u64;
        let levels = whole.checked_sub(basis_bytes).and_then(|rest| divide(&choices, rest)).ok_or_else(|| {
            let needed = ((basis_bytes + least(&choices)) as f64 / tokens as f64).ceil();
            let what = format!(
                "is {bytes_per_token:.0} bytes a token, and with {tokens} tokens at once the bases take {:.0} and the shortest codes {:.0}; give \
                 {needed:.0} or more, or train on more tokens at once",
                basis_bytes as f64 / tokens as f64,
                least(&choices) as f64 / tokens as f64
            );
            Error::from(run.error_at("activations", "budget", &what))
        })?;
        let code_bytes = choices.iter().zip(&levels).map(|(choice, level)| choice.bytes[*level]).sum();
        let share = |(of, level): (&Sensitivity, &usize)| Share {
            layer: of.layer,
            site: of.site.as_str().to_owned(),
            bits: LEVELS[*level],
            sensitivity: of.sensitivity,
        };
        let shares = found.iter().zip(&levels).map(share).collect();
        Ok(Self { bytes_per_token, tokens, elements_per_token: elements, basis_layers, basis_bytes, code_bytes, shares })
    }

    /// `table` with these bits, and no budget.
    pub fn applied(&self, table: &Activations) -> Activations {
        let mut table = Activations { budget: None, basis_layers: Some(self.basis_layers), ..table.clone() };
        let mut rest = self.shares.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest
                .iter()
                .enumerate()
                .take_while(|(index, share)| share.site == first.site && share.layer == first.layer + index && share.bits == first.bits);
            let count = alike.count();
            table.overrides.push(Override {
                sites: Some(first.site.clone().into()),
                layers: Some(Layers { start: first.layer, end: Some(first.layer + count) }),
                compression: CompressionOverrides { bits: Some(Bits::Number(first.bits)), ..CompressionOverrides::default() },
            });
            rest = &rest[count..];
        }
        table
    }

    /// Bits per element, bases included.
    pub fn bits_per_element(&self) -> f64 {
        8.0 * (self.basis_bytes + self.code_bytes) as f64 / (self.tokens * self.elements_per_token) as f64
    }

    /// Where a run writes its division.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("budget.json")
    }

    /// What an earlier start of the same run wrote down. One rank looks, so that all see the same.
    fn read(path: &Path, group: &dyn ProcessGroup) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        if group.rank() == 0 {
            bytes = match std::fs::read(path) {
                Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                read => read.map_err(Error::io(path, "read"))?,
            };
        }
        group.broadcast_bytes(&mut bytes, 0)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|fault| {
            Error::Input(format!("{} is not what a run writes there ({fault}); remove it, or take another run.dir", path.display()))
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|fault| Error::io(path, "write")(fault.into()))?;
        // Whole or not at all: a start that is interrupted here leaves nothing behind.
        let aside = path.with_extension("json.part");
        std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, path)).map_err(Error::io(path, "write"))
    }
}

impl fmt::Display for Division {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = || self.shares.iter().map(|share| share.bits);
        let (least, most) = (bits().fold(f64::INFINITY, f64::min), bits().fold(0.0, f64::max));
        let sharers = match self.basis_layers {
            1 => "each layer has its own".to_owned(),
            layers => format!("shared by {layers} neighbouring layers"),
        };
        write!(
            f,
            "activations: {:.0} bytes a token, {:.2} bits an element; codes of {least} to {most} bits; bases, {sharers}, take {:.2} of the bits",
            (self.basis_bytes + self.code_bytes) as f64 / self.tokens as f64,
            self.bits_per_element(),
            8.0 * self.basis_bytes as f64 / (self.tokens * self.elements_per_token) as f64
        )
    }
}

/// The `[activations]` table of `run` with its budget divided, as an earlier start of this run wrote down, or as it is measured now. `samples` are
/// this rank's of the first step. All ranks call it.
pub(crate) fn divided(run: &Run, probe: &Probe<'_>, samples: &Samples<'_>, group: &dyn ProcessGroup) -> Result<Activations> {
    if run.activations.budget.is_none() {
        return Ok(run.activations.clone());
    }
    let path = Division::path(&run.dir);
    let mut division = Division::read(&path, group)?;
    if division.is_none() {
        tracing::info!("measuring where the budget of activations is best spent");
        division = Division::of(run, probe, samples, group, &mut |_, _| ())?;
        if let (Some(division), 0) = (&division, group.rank()) {
            division.write(&path)?;
        }
    }
    let Some(division) = division else { return Ok(run.activations.clone()) };
    tracing::info!("{division}");
    Ok(division.applied(&run.activations))
}

/// Samples of a dataset.
pub(crate) struct Samples<'a> {
    pub dataset: &'a Dataset,
    pub indices: &'a [usize],
    pub pad: u32,
}

impl Samples<'_> {
    /// As few of them as make [`TOKENS`], one at least.
    fn few(&self, sequence_length: usize) -> Result<Batch> {
        let rows = (TOKENS / sequence_length.max(1)).clamp(1, self.indices.len().max(1));
        let (mut batches, _) = micro_batches(self.dataset, &self.indices[..rows], rows, self.pad)?;
        Ok(batches.remove(0))
    }
}

impl Sizes {
    /// Of the places where something was kept: what no gradient needs takes nothing.
    fn of(table: &Activations, model: &ModelConfig, tokens: u64, found: &[Sensitivity]) -> Self {
        let places = places(table, model.num_layers as usize).into_iter();
        let kept = places.filter(|(site, layer, _)| found.iter().any(|of| (of.site, of.layer) == (*site, *layer)));
        let tensors = kept.flat_map(|(site, layer, _)| {
            let width = policy::width(site, model, layer);
            let count = if matches!(site, Site::Sublayer | Site::Norm | Site::Act) { 2 } else { 1 };
            std::iter::repeat_n((site, layer, width), count)
        });
        let basis_bytes = |width: i64, form: &CompressionConfig| {
            let element = match form.factors {
                Factors::F32 => 4,
                _ => 2,
            };
            (width * (element * width + 4)) as u64
        };
        Self { tokens, tensors: tensors.collect(), basis_bytes }
    }

    /// Bytes of all bases with so many layers to each.
    fn basis_bytes(&self, form: &CompressionConfig, basis_layers: usize) -> u64 {
        let first = self.tensors.iter().filter(|(_, layer, _)| layer % basis_layers == 0);
        BASES * first.map(|(.., width)| (self.basis_bytes)(*width, form)).sum::<u64>()
    }

    /// The number of sharers at which the bits that bases take, and those that it would take to make up for sharing, are fewest.
    fn best_sharing(&self, form: &CompressionConfig, layers: usize) -> usize {
        let elements = (self.tokens * self.tensors.iter().map(|(.., width)| *width as u64).sum::<u64>()).max(1) as f64;
        let bits =
            |sharers: usize| 8.0 * self.basis_bytes(form, sharers) as f64 / elements + BITS_FOR_TWICE_THE_SHARERS * (sharers as f64).log2();
        (1..=layers.max(1)).min_by(|a, b| bits(*a).total_cmp(&bits(*b))).unwrap_or(1)
    }

    fn choice(&self, of: &Sensitivity) -> Result<Choice> {
        let widths = || self.tensors.iter().filter(|(site, layer, _)| (*site, *layer) == (of.site, of.layer)).map(|(.., width)| *width);
        let bytes = |bits: f64| -> Result<u64> {
            widths().map(|width| Ok(Coded::bytes_of(self.tokens as i64, width, width, Rate::Bits(bits))?)).sum()
        };
        Ok(Choice {
            bytes: LEVELS.iter().map(|bits| bytes(*bits)).collect::<Result<_>>()?,
            lost: of.lost.iter().map(|lost| of.sensitivity * lost).collect(),
        })
    }
}

/// The means over all ranks.
fn agree(found: &mut [Sensitivity], group: &dyn ProcessGroup) -> Result<()> {
    let numbers: Vec<f64> = found.iter().flat_map(|of| std::iter::once(of.sensitivity).chain(of.lost.iter().copied())).collect();
    let mut all = Tensor::f_from_slice(&numbers)?;
    group.all_reduce(&mut all, Reduce::Sum)?;
    let means = Vec::<f64>::try_from(all.f_div_scalar(group.world_size() as f64)?)?;
    for (of, means) in found.iter_mut().zip(means.chunks(1 + LEVELS.len())) {
        of.sensitivity = means[0];
        of.lost.copy_from_slice(&means[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SMOLLM2: &str = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192}"#;

    /// Layers that matter less and less, and lose as `4^-bits`.
    fn sensitivities() -> Vec<Sensitivity> {
        let lost: Vec<f64> = LEVELS.iter().map(|bits| 0.25f64.powf(*bits)).collect();
        (0..30).map(|layer| Sensitivity { layer, site: Site::Layer, sensitivity: 0.9f64.powi(layer as i32), lost: lost.clone() }).collect()
    }

    fn divided(keys: &str, tokens: u64) -> (Run, Result<Division>) {
        let folder = tempfile::tempdir().unwrap();
        let (path, model) = (folder.path().join("c.toml"), folder.path().join("config.json"));
        std::fs::write(&model, SMOLLM2).unwrap();
        std::fs::write(&path, format!("[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n[activations]\n{keys}\n")).unwrap();
        let run = Run::load(&path, &[]).unwrap();
        let found = Division::divided(&run, run.activations.budget.unwrap(), &ModelConfig::read(&model).unwrap(), tokens, &sensitivities());
        (run, found)
    }

    #[test]
    fn the_automatic_budget_keeps_at_most_two_bits_and_a_fifth_with_everything_counted() {
        let (run, division) = divided("budget = \"auto\"", 32_768);
        let division = division.unwrap();
        assert!(division.bits_per_element() <= 2.2 && division.bits_per_element() > 2.1, "{division}");
        assert!(division.basis_layers > 1, "{division}");
        // Two bases for each group of layers, in bf16.
        let groups = 30u64.div_ceil(division.basis_layers as u64);
        assert_eq!(division.basis_bytes, 2 * groups * 576 * (2 * 576 + 4));
        let codes: u64 = division.shares.iter().map(|share| (share.bits * 32_768.0 * 576.0 / 8.0) as u64).sum();
        assert_eq!(division.code_bytes, codes);
        assert!(division.shares.windows(2).all(|pair| pair[0].bits >= pair[1].bits), "the first layers matter most");
        assert!(division.to_string().contains(&format!("shared by {} neighbouring layers", division.basis_layers)), "{division}");

        let table = division.applied(&run.activations);
        for share in &division.shares {
            assert_eq!(table.compression_at(Site::Layer, share.layer).unwrap().0.bits, Bits::Number(share.bits));
        }
        assert!(table.overrides.len() < 30, "neighbours alike are one override");
    }

    #[test]
    fn fewer_tokens_share_more_and_too_few_bytes_are_refused() {
        let (_, few) = divided("budget = 4000", 4096);
        let (_, many) = divided("budget = 4000", 262_144);
        assert!(few.unwrap().basis_layers > many.unwrap().basis_layers);
        let (_, given) = divided("budget = 4000\nbasis_layers = 15", 4096);
        assert_eq!(given.unwrap().basis_layers, 15);
        let message = divided("budget = 1000", 4096).1.unwrap_err().to_string();
        assert!(
            message.contains("[activations] budget: is 1000 bytes a token") && message.contains("or more, or train on more tokens"),
            "{message}"
        );
    }
}
