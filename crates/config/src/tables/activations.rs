//! `[activations]`: what is kept of the activations for the backward pass (arXiv 2509.23472).

use super::form::{BasisKind, Form, Keeping, PartialForm};
use super::overrides::{Override, Overrides};
use crate::{Error, choice::choice, place::Table, raw};
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

impl Site {
    /// All of them.
    pub const ALL: [Self; 8] = [Self::Layer, Self::Sublayer, Self::Norm, Self::AttnIn, Self::AttnOut, Self::MlpIn, Self::MlpOut, Self::Act];
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

/// What the coded sites of a model may hold for each token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// [`Budget::AUTO_BITS`] for each element of the sites.
    Auto,
    /// So many bytes.
    BytesPerToken(f64),
}

impl Budget {
    /// The bits for each element of [`Budget::Auto`].
    pub const AUTO_BITS: f64 = 2.2;
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
    /// `difference`: the inputs of blocks (`"layer"`) or of their halves (`"sublayer"`) are kept as the differences from one to the next.
    /// Default: false.
    pub difference: bool,
    /// `budget`: what `coded` may hold of a token in the whole model, bases included, from which `bits` of each layer and site follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// `basis_layers`: neighbouring layers that share the basis of a site, of `coded`, `shared` and `"warm"`. Default: 1, or what suits the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis_layers: Option<usize>,
    /// `basis_steps`: steps from one agreement of the ranks on the bases of `shared` to the next. Default: 10.
    pub basis_steps: u64,
    /// `overrides`: other forms for some sites and layers; where several fit, the later one wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

impl Activations {
    pub(super) fn resolve(mut raw: raw::Activations, at: Table<'_>) -> Result<Self, Error> {
        let budget = match raw.budget.take() {
            None => None,
            Some(raw::Bits::Number(bytes)) => {
                at.require("budget", bytes > 0.0, "must be > 0")?;
                Some(Budget::BytesPerToken(bytes))
            }
            Some(raw::Bits::Name(name)) if name == "auto" => Some(Budget::Auto),
            Some(raw::Bits::Name(name)) => return Err(at.refuse("budget", &format!("cannot be \"{name}\""))),
        };
        if budget.is_some() {
            raw.method.get_or_insert_with(|| Keeping::Coded.as_str().to_owned());
        }
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
        at.require("basis_layers", raw.basis_layers != Some(0), "must be > 0")?;
        at.require("basis_steps", raw.basis_steps != Some(0), "must be > 0")?;
        at.require("budget", budget.is_none() || form.basis == BasisKind::Principal, "is for basis = \"principal\"")?;
        at.require("budget", budget.is_none() || form.method == Keeping::Coded, "is for method = \"coded\"")?;
        let compressed = matches!(sites, Sites::Of(_));
        at.require("budget", budget.is_none() || compressed, "divides the bytes of compressed sites; give some in sites")?;
        let stream = at.choose("stream", raw.stream.as_deref(), Stream::Main)?;
        let difference = raw.difference.unwrap_or(false);
        let chained = sites.has(Site::Layer) || sites.has(Site::Sublayer);
        at.require("difference", !difference || chained, "is between blocks or their halves; add \"layer\" or \"sublayer\" to sites")?;
        at.require("difference", !difference || stream == Stream::Main, "is taken in line; set stream = \"main\"")?;
        Ok(Self {
            sites,
            form,
            stream,
            difference,
            budget,
            basis_layers: raw.basis_layers,
            basis_steps: raw.basis_steps.unwrap_or(10),
            overrides,
        })
    }

    /// Whether some inputs of linear layers are kept in bases that the ranks share.
    pub(super) fn shares_inputs(&self) -> bool {
        let shares = |form: &PartialForm| form.method == Some(Keeping::Shared);
        let is_named = self.form.method == Keeping::Shared || self.overrides.iter().any(|given| shares(&given.form));
        is_named && [Site::AttnIn, Site::AttnOut, Site::MlpIn, Site::MlpOut].into_iter().any(|site| self.sites.has(site))
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

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::BytesPerToken(bytes) => serializer.serialize_f64(*bytes),
        }
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
