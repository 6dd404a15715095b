use serde::Serialize;
use tch::{Kind, Tensor};

use config::{CompressionConfig, Run, Site, Sites};
use data::Batch;
use layers::SavePolicy;
use models::{Activations, Decoder};
use setup::{activation_policies, block_policies, compression_options, delta_coded, site_width};

use super::candidates::CandidateMethod;
use super::options::InspectOptions;
use crate::Result;
use crate::probe::ProbeResult;

/// The gradients of all trained parameters with some sites compressed, against the exact ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientReport {
    /// `configured`: the run's own way; `site`: one site alone, in the run's form; `method`: the
    /// run's sites, in another form.
    pub kind: &'static str,
    /// Which sites are compressed.
    pub sites: String,
    /// How.
    pub method: String,
    /// The bits per element that the method was allowed, where that was given.
    pub bits: Option<f64>,
    /// Batches since the one that the sites' bases were made of.
    pub basis_age: u64,
    /// Neighbouring layers that share a basis.
    pub basis_layers: usize,
    /// Bytes saved for backward, the exact ones included.
    pub kept_bytes: u64,
    /// What the same sites would save uncompressed.
    pub exact_bytes: u64,
    /// `‖g − ĝ‖ / ‖g‖` of all gradients as one vector, the batches' one after another.
    pub relative_error: f64,
    /// Of the same vectors.
    pub cosine: f64,
    /// The same for the parameters of each layer.
    pub layers: Vec<LayerGradient>,
}

/// The gradients of one layer's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerGradient {
    /// From 0.
    pub layer: usize,
    /// `‖g − ĝ‖ / ‖g‖`.
    pub relative_error: f64,
    /// Of both.
    pub cosine: f64,
}

/// One way to save activations whose gradients are compared.
pub(super) struct Case {
    kind: &'static str,
    sites: Sites,
    form: CaseForm,
    /// Neighbouring layers that share a basis.
    basis_layers: usize,
    /// Batches since the one that the basis was made of.
    age: u64,
}

enum CaseForm {
    /// As the run says, overrides included.
    Configured(Box<config::Activations>),
    /// This form everywhere.
    Form(Box<CompressionConfig>),
    Candidate(CandidateMethod),
}

/// As configured, each site alone, and each candidate at the configured sites; of
/// `options.methods`, if there are any, these alone, and as configured if there is a budget.
pub(super) fn cases(
    run: &Run,
    table: &config::Activations,
    candidates: &[CandidateMethod],
    options: &InspectOptions,
) -> Vec<Case> {
    let budget = run.activations.budget.is_some();
    let sites = match &table.sites {
        Sites::Of(_) => table.sites.clone(),
        Sites::None | Sites::Checkpoint => Sites::Of(vec![Site::Layer]),
    };
    let fresh = |kind, sites, form| Case { kind, sites, form, basis_layers: 1, age: 0 };
    let mut cases = Vec::new();
    if options.methods.is_empty() || budget {
        cases.push(Case {
            basis_layers: table.basis_layers.unwrap_or(1),
            age: options.age,
            ..fresh(
                "configured",
                table.sites.clone(),
                CaseForm::Configured(Box::new(table.clone())),
            )
        });
    }
    if options.methods.is_empty() {
        cases.extend(Site::ALL.map(|site| {
            fresh(
                "site",
                Sites::Of(vec![site]),
                CaseForm::Form(Box::new(table.compression.clone())),
            )
        }));
    }
    let blocks = sites.has(Site::Layer) || sites.has(Site::Sublayer);
    for candidate in candidates.iter().filter(|candidate| blocks || !candidate.difference) {
        let case = || fresh("method", sites.clone(), CaseForm::Candidate(candidate.clone()));
        cases.push(case());
        if candidate.has_basis() && options.age > 0 {
            let layers = std::iter::once(1).chain(options.shared.iter().copied());
            cases.extend(layers.map(|basis_layers| Case {
                basis_layers,
                age: options.age,
                ..case()
            }));
        }
    }
    cases
}

impl Case {
    pub fn name(&self) -> String {
        format!("gradients: {}, {}", self.sites_name(), self.method())
    }

    fn sites_name(&self) -> String {
        match &self.sites {
            Sites::None => "none".into(),
            Sites::Checkpoint => "checkpoint".into(),
            Sites::Of(sites) => {
                sites.iter().map(|site| site.as_str()).collect::<Vec<_>>().join(" + ")
            }
        }
    }

    fn method(&self) -> String {
        let mut method = match &self.form {
            CaseForm::Configured(table)
                if table.compression.method == config::CompressionMethod::Coded
                    && !table.overrides.is_empty() =>
            {
                "coded, bits by layer and site".into()
            }
            CaseForm::Configured(table) => described(&table.compression),
            CaseForm::Form(form) => described(form),
            CaseForm::Candidate(candidate) => candidate.method.to_owned(),
        };
        if self.age > 0 {
            method += &format!(", basis {} batches old", self.age);
        }
        if self.basis_layers > 1 {
            method += &format!(", shared by {} layers", self.basis_layers);
        }
        method
    }

    /// Neighbouring layers that share a basis.
    pub fn basis_layers(&self) -> usize {
        self.basis_layers
    }

    /// Whether the sites are to observe an older batch first.
    pub fn is_older(&self) -> bool {
        self.age > 0
    }

    /// The policies for a batch.
    pub fn activations(&self, decoder: &Decoder, batch: &Batch) -> Activations {
        let (model, rows) = (decoder.config(), (batch.rows * batch.columns) as i64);
        let everywhere =
            |difference: bool, options: &dyn Fn(i64) -> Option<compression::Options>| {
                let saved = |site, options| {
                    if difference { delta_coded(site, options) } else { SavePolicy::Code(options) }
                };
                let keep = |site, layer| {
                    options(site_width(site, model, layer))
                        .map_or(SavePolicy::Exact, |options| saved(site, options))
                };
                let layers = 0..model.num_layers as usize;
                Activations::from_layers(
                    layers
                        .map(|layer| block_policies(&self.sites, |site| keep(site, layer)))
                        .collect(),
                )
            };
        match &self.form {
            CaseForm::Configured(table) => activation_policies(table, model),
            CaseForm::Form(form) => everywhere(false, &|width| compression_options(form, width)),
            CaseForm::Candidate(candidate) => {
                everywhere(candidate.difference, &|width| candidate.options(rows, width))
            }
        }
    }
}

/// A short description of a form.
fn described(form: &CompressionConfig) -> String {
    use config::{Bits, CompressionMethod, Rank};
    let bits = match form.bits {
        Bits::Number(bits) => bits.to_string(),
        Bits::Auto => format!("error {}", form.error),
    };
    let rank = match form.rank {
        Rank::Fraction(fraction) => format!("rank {fraction} of the width"),
        Rank::Columns(columns) => format!("rank {columns}"),
        Rank::Auto => format!("rank auto, error {}", form.error),
    };
    match form.method {
        CompressionMethod::Exact => "exact".into(),
        CompressionMethod::Quantized => format!("quantized int{}", bits),
        CompressionMethod::Coded => format!("coded, {bits} bits"),
        CompressionMethod::Qb | CompressionMethod::RowSpace => {
            format!("{} {}, {rank}, {}", form.method, form.sketch, form.factors)
        }
        _ => format!("{}, {rank}, {}", form.method, form.factors),
    }
}

/// Inner products of the exact gradients and those found, parameter by parameter, over batches.
#[derive(Default)]
pub(super) struct Gradients {
    kept_bytes: u64,
    exact_bytes: u64,
    products: Vec<Products>,
}

#[derive(Clone, Copy, Default)]
struct Products {
    exact: f64,
    found: f64,
    both: f64,
}

impl Products {
    fn add(&mut self, other: Self) {
        self.exact += other.exact;
        self.found += other.found;
        self.both += other.both;
    }

    fn relative_error(&self) -> f64 {
        let lost = (self.exact + self.found - 2.0 * self.both).max(0.0);
        if self.exact > 0.0 { (lost / self.exact).sqrt() } else { 0.0 }
    }

    fn cosine(&self) -> f64 {
        let norms = (self.exact * self.found).sqrt();
        if norms > 0.0 { self.both / norms } else { 1.0 }
    }
}

impl Gradients {
    pub fn add(&mut self, exact: &ProbeResult, found: &ProbeResult) -> Result<()> {
        self.kept_bytes = self.kept_bytes.max(found.kept_bytes);
        self.exact_bytes = self.exact_bytes.max(found.exact_bytes);
        self.products.resize(exact.gradients.len(), Products::default());
        for ((exact, found), products) in
            exact.gradients.iter().zip(&found.gradients).zip(&mut self.products)
        {
            let (exact, found) = (exact.f_to_kind(Kind::Double)?, found.f_to_kind(Kind::Double)?);
            let product = |a: &Tensor, b: &Tensor| {
                Ok::<_, crate::Error>(a.f_mul(b)?.f_sum(Kind::Double)?.f_double_value(&[])?)
            };
            products.add(Products {
                exact: product(&exact, &exact)?,
                found: product(&found, &found)?,
                both: product(&exact, &found)?,
            });
        }
        Ok(())
    }

    /// `names` are those of the parameters.
    pub fn report(self, case: Case, names: &[&str]) -> GradientReport {
        let mut all = Products::default();
        let mut layers: Vec<Products> = Vec::new();
        for (name, products) in names.iter().zip(&self.products) {
            all.add(*products);
            let Some(layer) = layer_of(name) else { continue };
            layers.resize(layers.len().max(layer + 1), Products::default());
            layers[layer].add(*products);
        }
        let of_layer = |(layer, products): (usize, &Products)| LayerGradient {
            layer,
            relative_error: products.relative_error(),
            cosine: products.cosine(),
        };
        GradientReport {
            kind: case.kind,
            sites: case.sites_name(),
            method: case.method(),
            bits: if let CaseForm::Candidate(candidate) = &case.form {
                Some(candidate.bits)
            } else {
                None
            },
            basis_age: case.age,
            basis_layers: case.basis_layers,
            kept_bytes: self.kept_bytes,
            exact_bytes: self.exact_bytes,
            relative_error: all.relative_error(),
            cosine: all.cosine(),
            layers: layers.iter().enumerate().map(of_layer).collect(),
        }
    }
}

/// The layer in a parameter's name: `model.layers.3.self_attn.q_proj.lora_A.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').skip_while(|part| *part != "layers").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_read_from_the_parameter() {
        assert_eq!(layer_of("model.layers.12.mlp.up_proj.lora_B.weight"), Some(12));
        assert_eq!(layer_of("model.norm.weight"), None);
    }

    #[test]
    fn errors_and_cosines_are_those_of_the_vectors() {
        let taken = |values: &[f64]| ProbeResult {
            gradients: vec![Tensor::from_slice(values)],
            kept_bytes: 3,
            exact_bytes: 4,
        };
        let mut gradients = Gradients::default();
        assert!(gradients.add(&taken(&[3.0, 0.0]), &taken(&[3.0, 1.0])).is_ok());
        assert!(gradients.add(&taken(&[0.0, 4.0]), &taken(&[0.0, 4.0])).is_ok());
        let form = CaseForm::Form(Box::default());
        let case =
            Case { kind: "site", sites: Sites::Of(vec![Site::Act]), form, basis_layers: 1, age: 0 };
        let report = gradients.report(case, &["model.layers.1.a"]);
        assert!((report.relative_error - 0.2).abs() < 1e-12, "{report:?}");
        assert!((report.cosine - 25.0 / (25f64 * 26.0).sqrt()).abs() < 1e-12);
        assert_eq!((report.sites.as_str(), report.layers.len(), report.kept_bytes), ("act", 2, 3));
    }
}
