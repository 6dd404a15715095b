//! `[[activations.overrides]]`: other compression for some sites and layers.

use super::activations::{Activations, Site};
use super::compression::CompressionOverrides;
use crate::{
    Error,
    choice::Choice,
    declare::{Declared, Table, table, table_schema},
    range::Range,
    source_map::KeyPlace,
    value::Value,
};
use serde_json::{Value as Json, json};
use wildmatch::WildMatch;

table! {
    /// Other compression for some sites and layers.
    Override: "activations.overrides" {
        /// The sites for which it applies.
        sites: Option<SitePatterns> = None,
            default "all",
            valid r#"names or patterns of "layer", "sublayer", "norm", "attn_in", "attn_out", "mlp_in", "mlp_out", "act", such as "mlp_*""#,
            example r#""lay*""#;
        /// The layers for which it applies.
        layers: Option<Layers> = None, default "all", example r#""0..8""#;
    }
    with compression: CompressionOverrides
}

/// Names of sites, or patterns with `*` and `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SitePatterns(Vec<String>);

impl From<String> for SitePatterns {
    fn from(pattern: String) -> Self {
        Self(vec![pattern])
    }
}

impl SitePatterns {
    fn matches(&self, site: Site) -> bool {
        self.0.iter().any(|pattern| WildMatch::new(pattern).matches(site.as_str()))
    }
}

/// A range of layers, from 0, the end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// The first.
    pub start: usize,
    /// The one after the last; absent: to the model's last.
    pub end: Option<usize>,
}

impl Override {
    /// Whether it applies to `site` in `layer`.
    pub fn is_for(&self, site: Site, layer: usize) -> bool {
        let is_here =
            |layers: Layers| layer >= layers.start && layers.end.is_none_or(|end| layer < end);
        self.sites.as_ref().is_none_or(|patterns| patterns.matches(site))
            && self.layers.is_none_or(is_here)
    }

    /// Refuses what overrides nothing of `activations`, or does not go together with it.
    pub(super) fn check(&self, activations: &Activations, table: &Table<'_>) -> Result<(), Error> {
        for pattern in self.sites.iter().flat_map(|sites| &sites.0) {
            let matching: Vec<Site> = Site::ALL
                .into_iter()
                .filter(|site| WildMatch::new(pattern).matches(site.as_str()))
                .collect();
            table.require(
                "sites",
                !matching.is_empty(),
                &format!("\"{pattern}\" matches no site"),
            )?;
            let is_compressed = matching.iter().any(|site| activations.sites.has(*site));
            let what = format!(
                "\"{pattern}\" matches none of the sites that are compressed; add it to [activations] sites"
            );
            table.require("sites", is_compressed, &what)?;
        }
        let what = "has nothing to override; give method, rank or another key in addition";
        table.require("sites", !self.compression.is_empty(), what)?;
        self.compression.over(&activations.compression).check(table)
    }
}

impl Value for Override {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        Err(at.cannot_be(value))
    }

    fn read_list(values: &[toml::Value], at: &KeyPlace<'_>) -> Result<Vec<Self>, Error> {
        let read = |(index, value): (usize, &toml::Value)| match value.as_table() {
            Some(entries) => <Self as Declared>::read(&Table::item::<Self>(at, index, entries)),
            None => <Self as Value>::read(value, at),
        };
        values.iter().enumerate().map(read).collect()
    }

    fn write(&self) -> Option<toml::Value> {
        let entries = Declared::write(self).into_iter().map(|(key, value)| (key.to_owned(), value));
        Some(toml::Value::Table(entries.collect()))
    }

    fn valid(_: Range) -> String {
        "a table".into()
    }

    fn schema(_: Range) -> Json {
        table_schema(&Self::keys())
    }
}

impl Value for SitePatterns {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match value.as_str() {
            Some(one) => Ok(Self(vec![one.to_owned()])),
            None => Vec::read(value, at).map(Self),
        }
    }

    fn write(&self) -> Option<toml::Value> {
        self.0.write()
    }

    fn valid(_: Range) -> String {
        format!("names or patterns of {}", Site::NAMES.join(", "))
    }

    fn schema(range: Range) -> Json {
        json!({"anyOf": [String::schema(range), Vec::<String>::schema(range)]})
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

impl Value for Layers {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        value.as_str().and_then(layers).ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        Some(match self.end {
            Some(end) => format!("{}..{end}", self.start).into(),
            None => format!("{}..", self.start).into(),
        })
    }

    fn valid(_: Range) -> String {
        "a range of layers from 0, its end not included: \"0..8\", \"24..\", \"..4\", \"3\"".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "string", "pattern": "^[0-9]*([.][.][0-9]*)?$"})
    }
}
