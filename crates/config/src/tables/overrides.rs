//! `[[activations.overrides]]`: other forms for some sites and layers.

use super::activations::{Site, Sites};
use super::form::{Form, PartialForm};
use crate::{Error, choice::Choice, place::Table, raw};
use serde::{Serialize, Serializer};
use wildmatch::WildMatch;

/// Another form for some sites and layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Override {
    /// `sites`: names or patterns with `*` and `?`, such as `"mlp_*"`. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<String>>,
    /// `layers`: such as `"0..8"` (0 to 7), `"24.."`, `"..4"` or `"3"`. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// What differs there.
    #[serde(flatten)]
    pub form: PartialForm,
}

/// A range of layers, from 0, the end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// The first.
    pub start: usize,
    /// Behind the last; absent: to the model's last.
    pub end: Option<usize>,
}

impl Override {
    /// Whether it says how `site` is kept in `layer`.
    pub fn is_for(&self, site: Site, layer: usize) -> bool {
        self.names(site) && self.layers.is_none_or(|layers| layer >= layers.start && layers.end.is_none_or(|end| layer < end))
    }

    fn names(&self, site: Site) -> bool {
        self.sites.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| WildMatch::new(pattern).matches(site.as_str())))
    }
}

/// What overrides are checked against.
pub(super) struct Overrides<'a> {
    pub sites: &'a Sites,
    pub form: &'a Form,
}

impl Overrides<'_> {
    pub(super) fn resolve(&self, raw: Option<Vec<raw::Override>>, at: Table<'_>) -> Result<Vec<Override>, Error> {
        raw.unwrap_or_default().into_iter().enumerate().map(|(index, raw)| self.one(raw, at.item(index))).collect()
    }

    fn one(&self, mut raw: raw::Override, at: Table<'_>) -> Result<Override, Error> {
        let form = PartialForm::resolve(raw.form(), at)?;
        let patterns = raw.sites.map(|sites| match sites {
            raw::OneOrMany::One(one) => vec![one],
            raw::OneOrMany::Many(many) => many,
        });
        for pattern in patterns.iter().flatten() {
            let matching: Vec<&str> = Site::NAMES.iter().copied().filter(|name| WildMatch::new(pattern).matches(name)).collect();
            at.require("sites", !matching.is_empty(), &format!("\"{pattern}\" matches no site"))?;
            let compressed = matching.iter().filter_map(|name| Site::from_name(name)).any(|site| self.sites.has(site));
            let what = format!("\"{pattern}\" matches none of the sites that are compressed; add it to [activations] sites");
            at.require("sites", compressed, &what)?;
        }
        let layers =
            raw.layers.map(|text| layers(&text).ok_or_else(|| at.refuse("layers", &format!("cannot be \"{text}\"")))).transpose()?;
        at.require("sites", !form.is_empty(), "has nothing to override; give method, rank or another key beside it")?;
        let there = form.over(self.form);
        there.check(at)?;
        let read = there.method.has_rank() || !form.speaks_of_rank();
        at.require("rank", read, &format!("is not read by method = \"{}\"; set another method beside it", there.method))?;
        Ok(Override { sites: patterns, layers, form })
    }
}

/// `"3"`, `"0..8"`, `"..8"` or `"24.."`, not empty.
fn layers(text: &str) -> Option<Layers> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let layers = match text.split_once("..") {
        None => number(text).map(|layer| Layers { start: layer, end: Some(layer + 1) })?,
        Some((start, end)) => {
            let start = if start.trim().is_empty() { 0 } else { number(start)? };
            let end = if end.trim().is_empty() { None } else { Some(number(end)?) };
            Layers { start, end }
        }
    };
    layers.end.is_none_or(|end| end > layers.start).then_some(layers)
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&match self.end {
            Some(end) => format!("{}..{end}", self.start),
            None => format!("{}..", self.start),
        })
    }
}
