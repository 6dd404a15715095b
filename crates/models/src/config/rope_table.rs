//! Rotary embeddings as `config.json` describes them: `rope_theta` and `rope_scaling`, or both
//! together in the newer `rope_parameters`, there also one for each kind of layer.

use super::fields::Fields;
use super::{RopeConfig, RopeScaling};
use crate::Result;

/// What holds where the file does not say.
pub(super) struct RopeDefaults {
    pub theta: f64,
    pub max_positions: i64,
    /// The context of the pre-training, in families whose class has a default for it.
    pub pretrained_positions: Option<i64>,
    /// Whether `rope_parameters` may hold a table for each kind of layer.
    pub by_layer: bool,
}

/// Reads the rotary embedding of a model.
pub(super) fn read(fields: &Fields<'_>, defaults: &RopeDefaults) -> Result<RopeConfig> {
    let table = match fields.table("rope_parameters")? {
        Some(table) if defaults.by_layer && table.is_nested() => {
            table.table("full_attention")?.map(|table| ("rope_parameters", table))
        }
        Some(table) => Some(("rope_parameters", table)),
        None => fields.table("rope_scaling")?.map(|table| ("rope_scaling", table)),
    };
    let theta = match &table {
        Some((_, table)) => table.number("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => fields.number("rope_theta")?.unwrap_or(defaults.theta),
    };
    let scaling = match table {
        Some((name, table)) => Table { name, table, fields, defaults }.scaling()?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta, scaling })
}

/// Reads that of local layers: `rope_local_base_freq`, or its own table in `rope_parameters`.
pub(super) fn read_local(fields: &Fields<'_>, defaults: &RopeDefaults) -> Result<RopeConfig> {
    let own = match fields.table("rope_parameters")? {
        Some(table) if table.is_nested() => table.table("sliding_attention")?,
        _ => None,
    };
    match own {
        Some(table) => {
            let theta = table.number("rope_theta")?.unwrap_or(defaults.theta);
            let scaling = Table { name: "rope_parameters", table, fields, defaults }.scaling()?;
            Ok(RopeConfig { theta, scaling })
        }
        None => {
            let theta = fields.number("rope_local_base_freq")?.unwrap_or(defaults.theta);
            Ok(RopeConfig { theta, scaling: RopeScaling::None })
        }
    }
}

/// A table that says how frequencies are scaled.
struct Table<'a> {
    name: &'a str,
    table: Fields<'a>,
    /// The whole file.
    fields: &'a Fields<'a>,
    defaults: &'a RopeDefaults,
}

impl Table<'_> {
    fn scaling(&self) -> Result<RopeScaling> {
        let table = &self.table;
        match self.kind()? {
            "default" => match table.is_nested() {
                // A table per kind of layer, as models with two kinds of attention have it.
                true => Err(table.unsupported(
                    self.name,
                    "one table per kind of layer",
                    "one table for all layers",
                )),
                false => Ok(RopeScaling::None),
            },
            "linear" => Ok(RopeScaling::Linear { factor: self.number("factor")? }),
            "dynamic" => Ok(RopeScaling::Dynamic {
                factor: self.number("factor")?,
                max_positions: self.defaults.max_positions,
            }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: self.number("factor")?,
                low_freq_factor: self.number("low_freq_factor")?,
                high_freq_factor: self.number("high_freq_factor")?,
                original_max_position_embeddings: table
                    .needed("original_max_position_embeddings")?,
            }),
            // Phi-3 first called its scaling "su", then "yarn".
            "longrope" | "su" => self.longrope(),
            "yarn" if table.contains("short_factor") => self.longrope(),
            "yarn" => self.yarn(),
            other => {
                let supported =
                    "\"default\", \"linear\", \"dynamic\", \"yarn\", \"llama3\", \"longrope\"";
                Err(table.unsupported(
                    &format!("{}.rope_type", self.name),
                    format!("{other:?}"),
                    supported,
                ))
            }
        }
    }

    fn kind(&self) -> Result<&str> {
        match self.table.text("rope_type")? {
            Some(kind) => Ok(kind),
            None => Ok(self.table.text("type")?.unwrap_or("default")),
        }
    }

    fn number(&self, key: &str) -> Result<f64> {
        let absent = || {
            let kind = self.kind().unwrap_or_default();
            self.table
                .invalid(&format!("{}.{key}", self.name), format!("rope type {kind:?} needs it"))
        };
        self.table.number(key)?.ok_or_else(absent)
    }

    /// `_compute_yarn_parameters` of transformers.
    fn yarn(&self) -> Result<RopeScaling> {
        // A value of 0 counts as absent there.
        let given = |key: &str| {
            Ok::<_, crate::Error>(self.table.number(key)?.filter(|number| *number != 0.0))
        };
        let factor = self.number("factor")?;
        let spread =
            |weight: f64| if factor > 1.0 { 0.1 * weight * factor.ln() + 1.0 } else { 1.0 };
        let (weight, all_dimensions) = (given("mscale")?, given("mscale_all_dim")?);
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: given("beta_fast")?.unwrap_or(32.0),
            beta_slow: given("beta_slow")?.unwrap_or(1.0),
            original_max_position_embeddings: match self
                .table
                .integer("original_max_position_embeddings")?
            {
                None | Some(0) => self.defaults.max_positions,
                Some(positions) => positions,
            },
            truncate: self.table.boolean("truncate")?.unwrap_or(true),
            attention_factor: match (self.table.number("attention_factor")?, weight, all_dimensions)
            {
                (Some(factor), _, _) => factor,
                (None, Some(weight), Some(all)) => spread(weight) / spread(all),
                (None, _, _) => spread(1.0),
            },
            all_dimensions,
        })
    }

    /// `_compute_longrope_parameters` of transformers.
    fn longrope(&self) -> Result<RopeScaling> {
        let key = "original_max_position_embeddings";
        let max = self.defaults.max_positions;
        let stated = match self.fields.integer(key)? {
            None if self.name == "rope_parameters" => {
                self.table.integer(key)?.or(self.defaults.pretrained_positions)
            }
            None => self.defaults.pretrained_positions,
            stated => stated,
        };
        if let Some(positions) = stated.filter(|positions| *positions < 2) {
            return Err(self.fields.invalid(key, format!("{positions} is no context")));
        }
        let original = stated.unwrap_or(max);
        let attention_factor = match self.table.number("attention_factor")? {
            Some(factor) => factor,
            None => {
                let factor = match stated {
                    Some(original) => max as f64 / original as f64,
                    None => self.number("factor")?,
                };
                if factor > 1.0 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
            }
        };
        let divisors = |key: &str| {
            let absent = || {
                self.table
                    .invalid(&format!("{}.{key}", self.name), "rope type \"longrope\" needs it")
            };
            self.table.numbers(key)?.ok_or_else(absent)
        };
        Ok(RopeScaling::LongRope {
            short_factor: divisors("short_factor")?,
            long_factor: divisors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor,
        })
    }
}
