//! Allocates a budget of bytes per token over all coded sites of all layers, so that the error of
//! the gradients is least.
//!
//! 1. Bases take the same bytes for any number of tokens; how many layers share one follows from
//!    the number of tokens.
//! 2. The sensitivity of the gradients to an error at each site is measured on a few tokens
//!    ([`sensitivity`]).
//! 3. The error of a site at each number of bits follows from its basis; bytes go where they reduce
//!    it most ([`allocate`]).
//!
//! The result is a plain `[activations]` table with overrides, as it could be written by hand.

mod allocate;
mod sensitivity;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use collective::{ProcessGroup, Reduce};
use compression::coded::{Coded, Rate};
use config::{
    Activations, Bits, Budget, CompressionConfig, CompressionOverrides, Factors, Layers, Override,
    Run, Site,
};
use data::{Batch, Dataset};
use models::ModelConfig;
use setup::{micro_batches, site_width};

use crate::probe::GradientProbe;
use crate::{Error, Result};
use allocate::{BIT_LEVELS, Candidate, allocate_bits, least_bytes};
use sensitivity::{Sensitivity, coded_sites, measure};

/// The most tokens on which sensitivities are measured, but at least one sample.
const TOKENS: usize = 512;

/// The cost of sharing a basis among twice as many layers, in bits per element.
const BITS_FOR_TWICE_THE_SHARERS: f64 = 0.05;

/// Copies of a basis while it is updated.
const BASES: u64 = 2;

/// How many bits each coded site gets; `budget.json` in a run's directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BitAllocation {
    /// Bytes for each token, bases included.
    pub bytes_per_token: f64,
    /// Tokens of the largest micro-batch.
    pub tokens: u64,
    /// Elements of all coded tensors for each token.
    pub elements_per_token: u64,
    /// Neighbouring layers that share a basis.
    pub basis_layers: usize,
    /// Bytes of all bases, two copies of each, as while they are updated.
    pub basis_bytes: u64,
    /// Bytes of all codes.
    pub code_bytes: u64,
    /// Each coded site of each layer.
    #[serde(rename = "shares")]
    pub sites: Vec<SiteBits>,
}

/// The bits of one site of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteBits {
    /// From 0.
    pub layer: usize,
    /// As `[activations] sites` calls it.
    pub site: String,
    /// Bits per element, all but the basis counted.
    pub bits: f64,
    /// The squared relative error of all gradients for each unit of the squared error of a token
    /// here.
    pub sensitivity: f64,
}

/// The bytes of bases and codes at the coded sites of a model.
struct CodedSizes {
    tokens: u64,
    /// The width of each coded tensor of a site in a layer: some sites have two.
    tensors: Vec<(Site, usize, i64)>,
    basis_bytes: fn(i64, &CompressionConfig) -> u64,
}

impl BitAllocation {
    /// Allocates the budget of `run`, if it has one, for the model of `probe`; `samples` are this
    /// rank's of a step. All ranks call it, with the same result.
    ///
    /// # Errors
    /// A budget that is too small, at its key; whatever fails in a forward or backward pass.
    pub fn measure(
        run: &Run,
        probe: &GradientProbe<'_>,
        samples: &CalibrationSamples<'_>,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Self>> {
        let Some(budget) = run.activations.budget else { return Ok(None) };
        let tokens = (run.rows_at_once(group.world_size())? * run.data.sequence_length) as u64;
        let batch = samples.few(run.data.sequence_length)?;
        let mut found = measure(&run.activations, probe, &batch, tokens as i64, progress)?;
        average(&mut found, group)?;
        Self::allocate(run, budget, probe.decoder.config(), tokens, &found).map(Some)
    }

    fn allocate(
        run: &Run,
        budget: Budget,
        model: &ModelConfig,
        tokens: u64,
        found: &[Sensitivity],
    ) -> Result<Self> {
        let table = &run.activations;
        let sizes = CodedSizes::new(table, model, tokens, found);
        let elements = sizes.tensors.iter().map(|(.., width)| *width as u64).sum::<u64>();
        let bytes_per_token = match budget {
            Budget::Auto => Budget::AUTO_BITS * elements as f64 / 8.0,
            Budget::BytesPerToken(bytes) => bytes,
        };
        let layers = model.num_layers as usize;
        let basis_layers =
            table.basis_layers.unwrap_or_else(|| sizes.best_sharing(&table.compression, layers));
        let basis_bytes = sizes.basis_bytes(&table.compression, basis_layers);
        let candidates: Vec<Candidate> =
            found.iter().map(|of| sizes.candidate(of)).collect::<Result<_>>()?;
        let whole = (bytes_per_token * tokens as f64) as u64;
        let levels = whole.checked_sub(basis_bytes).and_then(|rest| allocate_bits(&candidates, rest)).ok_or_else(|| {
            let needed = ((basis_bytes + least_bytes(&candidates)) as f64 / tokens as f64).ceil();
            let what = format!(
                "is {bytes_per_token:.0} bytes per token, and with {tokens} tokens at once the bases take {:.0} and the shortest codes {:.0}; give \
                 {needed:.0} or more, or train on more tokens at once",
                basis_bytes as f64 / tokens as f64,
                least_bytes(&candidates) as f64 / tokens as f64
            );
            Error::from(run.error_at("activations", "budget", &what))
        })?;
        let code_bytes =
            candidates.iter().zip(&levels).map(|(candidate, level)| candidate.bytes[*level]).sum();
        let site = |(of, level): (&Sensitivity, &usize)| SiteBits {
            layer: of.layer,
            site: of.site.as_str().to_owned(),
            bits: BIT_LEVELS[*level],
            sensitivity: of.sensitivity,
        };
        let sites = found.iter().zip(&levels).map(site).collect();
        Ok(Self {
            bytes_per_token,
            tokens,
            elements_per_token: elements,
            basis_layers,
            basis_bytes,
            code_bytes,
            sites,
        })
    }

    /// `table` with these bits, and no budget.
    pub fn applied(&self, table: &Activations) -> Activations {
        let mut table =
            Activations { budget: None, basis_layers: Some(self.basis_layers), ..table.clone() };
        let mut rest = self.sites.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest.iter().enumerate().take_while(|(index, next)| {
                next.site == first.site
                    && next.layer == first.layer + index
                    && next.bits == first.bits
            });
            let count = alike.count();
            table.overrides.push(Override {
                sites: Some(first.site.clone().into()),
                layers: Some(Layers { start: first.layer, end: Some(first.layer + count) }),
                compression: CompressionOverrides {
                    bits: Some(Bits::Number(first.bits)),
                    ..CompressionOverrides::default()
                },
            });
            rest = &rest[count..];
        }
        table
    }

    /// Bits per element, bases included.
    pub fn bits_per_element(&self) -> f64 {
        8.0 * (self.basis_bytes + self.code_bytes) as f64
            / (self.tokens * self.elements_per_token) as f64
    }

    /// Where a run writes its allocation.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("budget.json")
    }

    /// What an earlier start of the same run wrote. One rank reads it, so that all have the same.
    fn read(path: &Path, group: &dyn ProcessGroup) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        if group.rank() == 0 {
            bytes = match files::read_whole(path).map_err(std::io::Error::from) {
                Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                read => read.map_err(setup::Error::io(path, "read"))?,
            };
        }
        group.broadcast_bytes(&mut bytes, 0)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|fault| {
            Error::Input(format!(
                "{} is not what a run writes there ({fault}); remove it, or take another run.dir",
                path.display()
            ))
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|fault| setup::Error::io(path, "write")(fault.into()))?;
        // Complete or absent, also if the start is interrupted here.
        Ok(files::write(path, text).map_err(setup::Error::from)?)
    }
}

impl fmt::Display for BitAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = || self.sites.iter().map(|site| site.bits);
        let (fewest, most) = (bits().fold(f64::INFINITY, f64::min), bits().fold(0.0, f64::max));
        let sharers = match self.basis_layers {
            1 => "each layer has its own".to_owned(),
            layers => format!("shared by {layers} neighbouring layers"),
        };
        write!(
            f,
            "activations: {:.0} bytes per token, {:.2} bits per element; codes of {fewest} to {most} bits; bases, {sharers}, take {:.2} of the bits",
            (self.basis_bytes + self.code_bytes) as f64 / self.tokens as f64,
            self.bits_per_element(),
            8.0 * self.basis_bytes as f64 / (self.tokens * self.elements_per_token) as f64
        )
    }
}

/// The `[activations]` table of `run` with its budget allocated: as an earlier start of this run
/// wrote it, or measured now. `samples` are this rank's of the first step. All ranks call it.
///
/// # Errors
/// A budget that is too small, at its key; those of reading and writing, and of forward and
/// backward.
pub fn resolve_budget(
    run: &Run,
    probe: &GradientProbe<'_>,
    samples: &CalibrationSamples<'_>,
    group: &dyn ProcessGroup,
) -> Result<Activations> {
    if run.activations.budget.is_none() {
        return Ok(run.activations.clone());
    }
    let path = BitAllocation::path(&run.dir);
    let mut allocation = BitAllocation::read(&path, group)?;
    if allocation.is_none() {
        tracing::info!("measuring sensitivities to allocate the budget of activations");
        allocation = BitAllocation::measure(run, probe, samples, group, &mut |_, _| ())?;
        if let (Some(allocation), 0) = (&allocation, group.rank()) {
            allocation.write(&path)?;
        }
    }
    let Some(allocation) = allocation else { return Ok(run.activations.clone()) };
    tracing::info!("{allocation}");
    Ok(allocation.applied(&run.activations))
}

/// Samples on which sensitivities are measured.
#[derive(Debug)]
pub struct CalibrationSamples<'a> {
    /// The training data.
    pub dataset: &'a Dataset,
    /// This rank's samples of a step.
    pub indices: &'a [usize],
    /// The id that pads batches.
    pub pad: u32,
}

impl CalibrationSamples<'_> {
    /// A batch of about [`TOKENS`] tokens, at least one sample.
    fn few(&self, sequence_length: usize) -> Result<Batch> {
        let rows = (TOKENS / sequence_length.max(1)).clamp(1, self.indices.len().max(1));
        let (mut batches, _) = micro_batches(self.dataset, &self.indices[..rows], rows, self.pad)?;
        Ok(batches.remove(0))
    }
}

impl CodedSizes {
    /// Those of sites that saved something: what no gradient needs takes nothing.
    fn new(table: &Activations, model: &ModelConfig, tokens: u64, found: &[Sensitivity]) -> Self {
        let coded = coded_sites(table, model.num_layers as usize).into_iter();
        let saved = coded.filter(|(site, layer, _)| {
            found.iter().any(|of| (of.site, of.layer) == (*site, *layer))
        });
        let tensors = saved.flat_map(|(site, layer, _)| {
            let width = site_width(site, model, layer);
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

    /// Bytes of all bases, each shared by `basis_layers` layers.
    fn basis_bytes(&self, form: &CompressionConfig, basis_layers: usize) -> u64 {
        let first = self.tensors.iter().filter(|(_, layer, _)| layer % basis_layers == 0);
        BASES * first.map(|(.., width)| (self.basis_bytes)(*width, form)).sum::<u64>()
    }

    /// The number of sharers at which the bits that bases take, and those that it would take to
    /// make up for sharing, are fewest.
    fn best_sharing(&self, form: &CompressionConfig, layers: usize) -> usize {
        let elements = (self.tokens
            * self.tensors.iter().map(|(.., width)| *width as u64).sum::<u64>())
        .max(1) as f64;
        let bits = |sharers: usize| {
            8.0 * self.basis_bytes(form, sharers) as f64 / elements
                + BITS_FOR_TWICE_THE_SHARERS * (sharers as f64).log2()
        };
        (1..=layers.max(1)).min_by(|a, b| bits(*a).total_cmp(&bits(*b))).unwrap_or(1)
    }

    fn candidate(&self, of: &Sensitivity) -> Result<Candidate> {
        let widths = || {
            self.tensors
                .iter()
                .filter(|(site, layer, _)| (*site, *layer) == (of.site, of.layer))
                .map(|(.., width)| *width)
        };
        let bytes = |bits: f64| -> Result<u64> {
            widths()
                .map(|width| {
                    Ok(Coded::bytes_of(self.tokens as i64, width, width, Rate::Bits(bits))?)
                })
                .sum()
        };
        Ok(Candidate {
            bytes: BIT_LEVELS.iter().map(|bits| bytes(*bits)).collect::<Result<_>>()?,
            error: of.lost.iter().map(|lost| of.sensitivity * lost).collect(),
        })
    }
}

/// Averages over all ranks.
fn average(found: &mut [Sensitivity], group: &dyn ProcessGroup) -> Result<()> {
    let numbers: Vec<f64> = found
        .iter()
        .flat_map(|of| std::iter::once(of.sensitivity).chain(of.lost.iter().copied()))
        .collect();
    let mut all = Tensor::f_from_slice(&numbers)?;
    group.all_reduce(&mut all, Reduce::Sum)?;
    let means = Vec::<f64>::try_from(all.f_div_scalar(group.world_size() as f64)?)?;
    for (of, means) in found.iter_mut().zip(means.chunks(1 + BIT_LEVELS.len())) {
        of.sensitivity = means[0];
        of.lost.copy_from_slice(&means[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOLLM2: &str = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192}"#;

    /// Layers that matter less and less, and lose as `4^-bits`.
    fn sensitivities() -> Vec<Sensitivity> {
        let lost: Vec<f64> = BIT_LEVELS.iter().map(|bits| 0.25f64.powf(*bits)).collect();
        (0..30)
            .map(|layer| Sensitivity {
                layer,
                site: Site::Layer,
                sensitivity: 0.9f64.powi(layer as i32),
                lost: lost.clone(),
            })
            .collect()
    }

    fn divided(keys: &str, tokens: u64) -> (Run, Result<BitAllocation>) {
        let folder = tempfile::tempdir().unwrap();
        let (path, model) = (folder.path().join("c.toml"), folder.path().join("config.json"));
        std::fs::write(&model, SMOLLM2).unwrap();
        std::fs::write(
            &path,
            format!(
                "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n[activations]\n{keys}\n"
            ),
        )
        .unwrap();
        let run = Run::load(&path, &[]).unwrap();
        let found = BitAllocation::allocate(
            &run,
            run.activations.budget.unwrap(),
            &ModelConfig::read(&model).unwrap(),
            tokens,
            &sensitivities(),
        );
        (run, found)
    }

    #[test]
    fn the_automatic_budget_keeps_at_most_two_bits_and_a_fifth_with_everything_counted() {
        let (run, allocation) = divided("budget = \"auto\"", 32_768);
        let allocation = allocation.unwrap();
        assert!(
            allocation.bits_per_element() <= 2.2 && allocation.bits_per_element() > 2.1,
            "{allocation}"
        );
        assert!(allocation.basis_layers > 1, "{allocation}");
        // Two bases for each group of layers, in bf16.
        let groups = 30u64.div_ceil(allocation.basis_layers as u64);
        assert_eq!(allocation.basis_bytes, 2 * groups * 576 * (2 * 576 + 4));
        let codes: u64 =
            allocation.sites.iter().map(|site| (site.bits * 32_768.0 * 576.0 / 8.0) as u64).sum();
        assert_eq!(allocation.code_bytes, codes);
        assert!(
            allocation.sites.windows(2).all(|pair| pair[0].bits >= pair[1].bits),
            "the first layers matter most"
        );
        assert!(
            allocation
                .to_string()
                .contains(&format!("shared by {} neighbouring layers", allocation.basis_layers)),
            "{allocation}"
        );

        let table = allocation.applied(&run.activations);
        for site in &allocation.sites {
            assert_eq!(
                table.compression_at(Site::Layer, site.layer).unwrap().0.bits,
                Bits::Number(site.bits)
            );
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
            message.contains("[activations] budget: is 1000 bytes per token")
                && message.contains("or more, or train on more tokens"),
            "{message}"
        );
    }
}
