//! One budget of bytes for a token, over all layers and sites that are coded, so that the gradients suffer least.
//!
//! 1. The bases are held whatever the number of tokens, so how many layers share one follows from how many tokens there are.
//! 2. What a loss at a site costs the gradients is measured on a few tokens, site by site ([`sensitivity`]).
//! 3. What a site loses at each number of bits is known from its basis; bytes go where they save most ([`divide`]).
//!
//! What comes out is a plain `[activations]` table with overrides, as it could be written by hand.

mod divide;
mod sensitivity;

use crate::config::{Activations, Bits, Budget, Form, Layers, Override, PartialForm, Run, Site};
use crate::probe::Probe;
use crate::{Error, Result, policy};
use collective::{ProcessGroup, Reduce};
use data::Batch;
use divide::{Choice, LEVELS, divide, least};
use lowrank::coded::{Coded, Rate};
use models::ModelConfig;
use sensitivity::{Sensitivity, measure, places};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
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
    basis_bytes: fn(i64, &Form) -> u64,
}

impl Division {
    /// Divides the budget of `run`, if it has one, for the model of `probe`; `batch` are a few of this rank's samples. All ranks come to the same,
    /// and must ask together.
    ///
    /// # Errors
    /// A budget that is too small, at its key; whatever fails in a forward or backward pass.
    pub(crate) fn of(
        run: &Run,
        probe: &Probe<'_>,
        batch: &Batch,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Self>> {
        let Some(budget) = run.activations.budget else { return Ok(None) };
        let tokens = (run.rows_at_once(group.world_size())? * run.data.sequence_length) as u64;
        let mut found = measure(&run.activations, probe, batch, tokens as i64, progress)?;
        agree(&mut found, group)?;
        Self::divided(run, budget, probe.decoder.config(), tokens, &found).map(Some)
    }

    fn divided(run: &Run, budget: Budget, model: &ModelConfig, tokens: u64, found: &[Sensitivity]) -> Result<Self> {
        let table = &run.activations;
        let sizes = Sizes::of(table, model, tokens);
        let elements = sizes.tensors.iter().map(|(.., width)| *width as u64).sum::<u64>();
        let bytes_per_token = match budget {
            Budget::Auto => Budget::AUTO_BITS * elements as f64 / 8.0,
            Budget::BytesPerToken(bytes) => bytes,
        };
        let layers = model.num_layers as usize;
        let basis_layers = table.basis_layers.unwrap_or_else(|| sizes.best_sharing(&table.form, layers));
        let basis_bytes = sizes.basis_bytes(&table.form, basis_layers);
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
            Error::from(run.refuse("activations", "budget", &what))
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
                sites: Some(vec![first.site.clone()]),
                layers: Some(Layers { start: first.layer, end: Some(first.layer + count) }),
                form: PartialForm { bits: Some(Bits::Number(first.bits)), ..PartialForm::default() },
            });
            rest = &rest[count..];
        }
        table
    }

    /// Bits per element, bases included.
    pub fn bits_per_element(&self) -> f64 {
        8.0 * (self.basis_bytes + self.code_bytes) as f64 / (self.tokens * self.elements_per_token) as f64
    }

    /// What an earlier start of the same run wrote down.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|fault| {
                Error::Input(format!("{} is not what a run writes there ({fault}); remove it, or take another run.dir", path.display()))
            }),
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(Error::io(path, "read")(fault)),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|fault| Error::io(path, "write")(fault.into()))?;
        std::fs::write(path, text).map_err(Error::io(path, "write"))
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

/// Rows of a rank's share of which the sensitivities are measured.
pub(crate) fn sample_rows(run: &Run, rows: usize) -> usize {
    (TOKENS / run.data.sequence_length.max(1)).clamp(1, rows.max(1))
}

impl Sizes {
    fn of(table: &Activations, model: &ModelConfig, tokens: u64) -> Self {
        let tensors = places(table, model.num_layers as usize).into_iter().flat_map(|(site, layer, _)| {
            let width = policy::width(site, model, layer);
            let count = if matches!(site, Site::Sublayer | Site::Norm | Site::Act) { 2 } else { 1 };
            std::iter::repeat_n((site, layer, width), count)
        });
        let basis_bytes = |width: i64, form: &Form| {
            let element = match form.factors {
                crate::config::Factors::F32 => 4,
                _ => 2,
            };
            (width * (element * width + 4)) as u64
        };
        Self { tokens, tensors: tensors.collect(), basis_bytes }
    }

    /// Bytes of all bases with so many layers to each.
    fn basis_bytes(&self, form: &Form, basis_layers: usize) -> u64 {
        let first = self.tensors.iter().filter(|(_, layer, _)| layer % basis_layers == 0);
        BASES * first.map(|(.., width)| (self.basis_bytes)(*width, form)).sum::<u64>()
    }

    /// The number of sharers at which the bits that bases take, and those that it would take to make up for sharing, are fewest.
    fn best_sharing(&self, form: &Form, layers: usize) -> usize {
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
