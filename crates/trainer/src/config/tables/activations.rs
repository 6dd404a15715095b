//! `[activations]`: what is kept of the activations for the backward pass (arXiv 2509.23472).

use super::form::{Form, Keeping};
use super::overrides::{Override, Overrides};
use crate::config::{Error, choice::choice, place::Table, raw};
use serde::{Serialize, Serializer};

choice! {
    /// A tensor that is compressed on its own.
    Site {
        /// The input of each block, which is recomputed from it.
        Layer = "layer",
        /// The inputs of each block's two halves (norm and attention, norm and MLP), which are recomputed from them.
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

choice! {
    /// Where a GPU compresses.
    Stream {
        /// In line with the forward.
        Main = "main",
        /// Beside it, on a stream of its own.
        Side = "side",
    }
}

/// Which activations are kept, and which of them compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// Everything an operation needs is kept exactly.
    None,
    /// Each block's input is kept exactly and the block recomputed.
    Checkpoint,
    /// These are kept compressed, and what else an operation needs exactly; sorted, each once, at least one. Where blocks or their halves are
    /// among them, the other sites are compressed while the block is recomputed.
    Of(Vec<Site>),
}

impl Sites {
    /// Whether this site is kept compressed.
    pub fn has(&self, site: Site) -> bool {
        matches!(self, Self::Of(sites) if sites.contains(&site))
    }
}

/// `[activations]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activations {
    /// `sites`: `"none"`, `"checkpoint"`, `"layer"`, `"sublayer"`, or a list of `"norm"`, `"attn_in"`, `"attn_out"`, `"mlp_in"`,
    /// `"mlp_out"`, `"act"` and at most one of `"layer"` and `"sublayer"`. Default: `"layer"`.
    pub sites: Sites,
    /// How they are kept.
    #[serde(flatten)]
    pub form: Form,
    /// `stream`: where a GPU compresses: `"main"`, or `"side"`, while the forward goes on. Default: `"main"`.
    pub stream: Stream,
    /// `basis_layers`: neighbouring layers that share the basis of a site, of `coded` and `"warm"`. Default: 1.
    pub basis_layers: usize,
    /// `overrides`: other forms for some sites and layers; where several fit, the later one wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

impl Activations {
    pub(super) fn resolve(mut raw: raw::Activations, at: Table<'_>) -> Result<Self, Error> {
        let form = Form::resolve(raw.form(), at)?;
        let sites = match raw.sites {
            None => Sites::Of(vec![Site::Layer]),
            Some(raw::OneOrMany::One(name)) => match at.choose("sites", Some(&name), SitesName::Layer)? {
                SitesName::None => Sites::None,
                SitesName::Checkpoint => Sites::Checkpoint,
                SitesName::Layer => Sites::Of(vec![Site::Layer]),
                SitesName::Sublayer => Sites::Of(vec![Site::Sublayer]),
            },
            Some(raw::OneOrMany::Many(names)) => {
                at.require("sites", !names.is_empty(), "must not be an empty list; for no site write \"none\"")?;
                let mut sites = names.iter().map(|name| at.choose("sites", Some(name), Site::Norm)).collect::<Result<Vec<_>, _>>()?;
                sites.sort_unstable();
                sites.dedup();
                let both = sites.starts_with(&[Site::Layer, Site::Sublayer]);
                at.require("sites", !both, "has both \"layer\" and \"sublayer\"; keep one of the two")?;
                Sites::Of(sites)
            }
        };
        let overrides = Overrides { sites: &sites, form: &form }.resolve(raw.overrides, at)?;
        let basis_layers = raw.basis_layers.unwrap_or(1);
        at.require("basis_layers", basis_layers > 0, "must be > 0")?;
        let stream = at.choose("stream", raw.stream.as_deref(), Stream::Main)?;
        Ok(Self { sites, form, stream, basis_layers, overrides })
    }

    /// How `site` is kept in `layer`, and which override said so last; `None` where it is not among `sites`.
    pub fn form_at(&self, site: Site, layer: usize) -> Option<(Form, Option<usize>)> {
        if !self.sites.has(site) {
            return None;
        }
        let mut found = (self.form.clone(), None);
        for (index, given) in self.overrides.iter().enumerate().filter(|(_, given)| given.is_for(site, layer)) {
            found = (given.form.over(&found.0), Some(index));
        }
        Some(found)
    }

    /// Whether anything may be kept in a compressed form.
    pub fn compresses(&self) -> bool {
        let forms = || std::iter::once(self.form.method).chain(self.overrides.iter().filter_map(|given| given.form.method));
        matches!(self.sites, Sites::Of(_)) && forms().any(|method| method != Keeping::Exact)
    }
}

choice! {
    /// The names of [`Sites`] that stand alone.
    SitesName {
        /// [`Sites::None`].
        None = "none",
        /// [`Sites::Checkpoint`].
        Checkpoint = "checkpoint",
        /// The blocks alone.
        Layer = "layer",
        /// Their halves alone.
        Sublayer = "sublayer",
    }
}

impl Serialize for Sites {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => SitesName::None.serialize(serializer),
            Self::Checkpoint => SitesName::Checkpoint.serialize(serializer),
            Self::Of(sites) => match sites[..] {
                [one @ (Site::Layer | Site::Sublayer)] => one.serialize(serializer),
                _ => sites.serialize(serializer),
            },
        }
    }
}
