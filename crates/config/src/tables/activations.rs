//! `[activations]`: what is saved of the activations for the backward pass (arXiv 2509.23472).

use super::compression::{BY, BasisKind, CompressionConfig, CompressionMethod, SOME_SITE, site};
use super::overrides::Override;
use crate::{
    Error,
    choice::{self, Choice, choice},
    declare::{Table, When, table},
    range::{MOST_COLUMNS, MOST_STEPS, Range},
    source_map::KeyPlace,
    value::{Value, number},
};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

choice! {
    /// A tensor that is compressed on its own.
    Site {
        /// The input of each block, which is recomputed from it.
        Layer = "layer",
        /// The inputs of each block's two sublayers (norm and attention, norm and MLP), which are
        /// recomputed from them.
        Sublayer = "sublayer",
        /// The inputs of the norms.
        Norm = "norm",
        /// The input of the q, k and v projections.
        AttnIn = "attn_in",
        /// The input of attention's output projection.
        AttnOut = "attn_out",
        /// The input of the MLP's first projections.
        MlpIn = "mlp_in",
        /// The input of the MLP's last projection.
        MlpOut = "mlp_out",
        /// The inputs of the activation function and its gate.
        Act = "act",
    }
}

impl Site {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Layer,
        Self::Sublayer,
        Self::Norm,
        Self::AttnIn,
        Self::AttnOut,
        Self::MlpIn,
        Self::MlpOut,
        Self::Act,
    ];
}

choice! {
    /// Where a GPU compresses.
    Stream {
        /// On the stream of the forward.
        Main = "main",
        /// On a stream of its own, while the forward continues.
        Side = "side",
    }
}

/// Which activations are saved for backward, and which of them compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// Everything that an operation needs is saved uncompressed.
    None,
    /// Each block's input is saved uncompressed and the block recomputed.
    Checkpoint,
    /// These are saved compressed, and what else an operation needs uncompressed; sorted, each
    /// once, at least one. Where blocks or their sublayers are among them, the other sites are
    /// compressed while the block is recomputed.
    Of(Vec<Site>),
}

impl Sites {
    /// Whether this site is saved compressed.
    pub fn has(&self, site: Site) -> bool {
        matches!(self, Self::Of(sites) if sites.contains(&site))
    }
}

/// What the coded sites of a model may save of each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// [`Budget::AUTO_BITS`] for each element of the sites.
    Auto,
    /// This number of bytes.
    BytesPerToken(f64),
}

impl Budget {
    /// The bits for each element of [`Budget::Auto`].
    pub const AUTO_BITS: f64 = 2.2;
}

table! {
    /// What is saved of the activations for the backward pass.
    Activations: "activations" {
        /// Which activations are saved compressed: a list of sites, of which `"layer"` and
        /// `"sublayer"` mean that the rest is recomputed from them. `"checkpoint"` saves the inputs
        /// of blocks uncompressed and recomputes the blocks; `"none"` recomputes nothing.
        sites: Sites = Sites::Of(vec![Site::Layer]), example r#"["layer", "mlp_out"]"#;
        /// Where a GPU compresses.
        stream: Stream = Stream::Main,
            when When::new(BY, SOME_SITE, Self::has_sites),
            example r#""side""#;
        /// Save the inputs of blocks, or of their sublayers, as the differences between neighbours.
        delta: bool = false,
            when When::new(BY, r#"sites has "layer" or "sublayer""#, Self::recomputes_from_sites),
            example "true";
        /// The bytes of a token that `"coded"` may save in the whole model, bases included. The
        /// bits of each layer and site follow from it.
        budget: Option<Budget> = None,
            default "none: bits determines them",
            when When::new(BY, r#"method = "coded" with basis = "principal""#, Self::may_have_budget),
            example r#""auto""#;
        /// The number of neighbouring layers that share the basis of a site.
        basis_layers: Option<usize> = None,
            default "1, with budget what suits it",
            within Range::above(0.0).at_most(MOST_COLUMNS),
            when site(r#"method = "coded" or "shared", or sketch = "warm""#, CompressionConfig::remembers_basis),
            example "4";
        /// Steps between two agreements of the ranks on their shared bases.
        basis_steps: u64 = 10,
            within Range::above(0.0).at_most(MOST_STEPS),
            when site(r#"method = "shared""#, |site| site.method == CompressionMethod::Shared),
            example "20";
        /// Other values for some sites and layers. Where several apply, the last one has
        /// precedence.
        overrides: Vec<Override> = Vec::new(),
            valid "a list of tables [[activations.overrides]] with sites, layers, and the keys that differ there",
            when When::new(BY, SOME_SITE, Self::has_sites),
            example r#"[{ layers = "0..4", bits = 8 }]"#;
    }
    with compression: CompressionConfig
}

impl Activations {
    pub(crate) fn resolve(self, table: &Table<'_>) -> Result<Self, Error> {
        let is_in_line = !self.delta || self.stream == Stream::Main;
        table.require(
            "delta",
            is_in_line,
            "is compressed on the main stream; set stream = \"main\"",
        )?;
        self.overrides
            .iter()
            .zip(table.items::<Override>("overrides"))
            .try_for_each(|(given, table)| given.check(&self, &table))?;
        Ok(self)
    }

    /// How `site` is saved in `layer`, and the last override that determines it; `None` where it is
    /// not among `sites`.
    pub fn compression_at(
        &self,
        site: Site,
        layer: usize,
    ) -> Option<(CompressionConfig, Option<usize>)> {
        if !self.sites.has(site) {
            return None;
        }
        let mut found = (self.compression.clone(), None);
        for (index, given) in
            self.overrides.iter().enumerate().filter(|(_, given)| given.is_for(site, layer))
        {
            found = (given.compression.over(&found.0), Some(index));
        }
        Some(found)
    }

    /// Whether anything is saved compressed.
    pub fn compresses(&self) -> bool {
        self.in_use(None).any(|compression| compression.method != CompressionMethod::Exact)
    }

    /// Whether the tensors of some sites are saved as `[activations]` says.
    pub(crate) fn has_sites(&self) -> bool {
        matches!(self.sites, Sites::Of(_))
    }

    /// Whether some inputs of linear layers are saved in bases that the ranks share.
    pub(crate) fn shares_inputs(&self) -> bool {
        let inputs = [Site::AttnIn, Site::AttnOut, Site::MlpIn, Site::MlpOut];
        let is_named =
            self.in_use(None).any(|compression| compression.method == CompressionMethod::Shared);
        is_named && inputs.into_iter().any(|site| self.sites.has(site))
    }

    fn recomputes_from_sites(&self) -> bool {
        self.sites.has(Site::Layer) || self.sites.has(Site::Sublayer)
    }

    fn may_have_budget(&self) -> bool {
        self.has_sites()
            && self.compression.method == CompressionMethod::Coded
            && self.compression.basis == BasisKind::Principal
    }

    /// How sites are compressed: at every site, in every layer from which on something changes; of
    /// an override, where it applies.
    pub(crate) fn in_use(
        &self,
        override_index: Option<usize>,
    ) -> impl Iterator<Item = CompressionConfig> {
        let ranges = self.overrides.iter().filter_map(|given| given.layers);
        let layers: BTreeSet<usize> =
            ranges.flat_map(|range| [Some(range.start), range.end]).flatten().chain([0]).collect();
        let places = layers.into_iter().flat_map(|layer| Site::ALL.map(|site| (site, layer)));
        let applies = move |(site, layer): &(Site, usize)| {
            override_index.is_none_or(|index| {
                self.overrides.get(index).is_some_and(|given| given.is_for(*site, *layer))
            })
        };
        places
            .filter(applies)
            .filter_map(|(site, layer)| self.compression_at(site, layer))
            .map(|(compression, _)| compression)
    }
}

choice! {
    /// The names of [`Sites`] that stand alone.
    SitesName {
        /// Everything is saved uncompressed.
        None = "none",
        /// The inputs of blocks are saved uncompressed, and the blocks recomputed.
        Checkpoint = "checkpoint",
        /// The inputs of blocks.
        Layer = "layer",
        /// The inputs of their sublayers.
        Sublayer = "sublayer",
    }
}

impl Value for Sites {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        if value.is_str() {
            return Ok(match choice::read(value, at)? {
                SitesName::None => Self::None,
                SitesName::Checkpoint => Self::Checkpoint,
                SitesName::Layer => Self::Of(vec![Site::Layer]),
                SitesName::Sublayer => Self::Of(vec![Site::Sublayer]),
            });
        }
        let names = value
            .as_array()
            .filter(|names| names.iter().all(toml::Value::is_str))
            .ok_or_else(|| at.cannot_be(value))?;
        let mut sites: Vec<Site> = Site::read_list(names, at)?;
        sites.sort_unstable();
        sites.dedup();
        if sites.is_empty() {
            return Err(at.error("must not be an empty list; for no site write \"none\""));
        }
        if sites.starts_with(&[Site::Layer, Site::Sublayer]) {
            return Err(at.error("has both \"layer\" and \"sublayer\"; keep one of the two"));
        }
        Ok(Self::Of(sites))
    }

    fn write(&self) -> Option<toml::Value> {
        match self {
            Self::None => SitesName::None.write(),
            Self::Checkpoint => SitesName::Checkpoint.write(),
            Self::Of(sites) => match sites[..] {
                [one @ (Site::Layer | Site::Sublayer)] => one.write(),
                _ => sites.write(),
            },
        }
    }

    fn valid(_: Range) -> String {
        let inner: Vec<&str> =
            Site::NAMES.iter().copied().filter(|name| !SitesName::NAMES.contains(name)).collect();
        format!(
            "{} | a list of {}",
            choice::valid(SitesName::NAMES),
            choice::valid(&inner).replace(" |", ",")
        )
    }

    fn schema(range: Range) -> Json {
        let list = json!({"type": "array", "items": Site::schema(range), "minItems": 1});
        json!({"anyOf": [SitesName::schema(range), list]})
    }

    fn choices() -> &'static [(&'static str, &'static str)] {
        Site::choices()
    }
}

impl Value for Budget {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match (value.as_str(), number(value)) {
            (Some("auto"), _) => Ok(Self::Auto),
            (_, Some(bytes)) if bytes > 0.0 && bytes.is_finite() => Ok(Self::BytesPerToken(bytes)),
            (_, Some(_)) => Err(at.error("must be > 0")),
            _ => Err(at.cannot_be(value)),
        }
    }

    fn write(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Auto => "auto".into(),
            Self::BytesPerToken(bytes) => (*bytes).into(),
        })
    }

    fn valid(_: Range) -> String {
        "a number > 0 of bytes per token, or \"auto\"".into()
    }

    fn schema(_: Range) -> Json {
        json!({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "auto"}]})
    }
}
