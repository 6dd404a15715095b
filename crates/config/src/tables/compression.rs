//! How a site's tensor is saved: the keys that `[activations]` and its overrides share.

use crate::{
    Error,
    choice::choice,
    declare::{Declared, Key, Table, When, one_of, table},
    range::{MOST_COLUMNS, Range},
    source_map::KeyPlace,
    value::{Value, number},
};
use serde_json::{Value as Json, json};

choice! {
    /// The basis of whose components the codes are.
    BasisKind {
        /// A principal basis of the site.
        Principal = "principal",
        /// The columns themselves.
        None = "none",
    }
}

choice! {
    /// How a site's tensor is saved for backward.
    CompressionMethod {
        /// Uncompressed.
        Exact = "exact",
        /// Low-rank factors from a sampled range finder and a QR decomposition (LoRAct, arXiv
        /// 2509.23472).
        Qb = "qb",
        /// Low-rank factors in a basis of the row space, in which every token has the same weight.
        RowSpace = "rowspace",
        /// The randomised singular value decomposition.
        Rsvd = "rsvd",
        /// The truncated singular value decomposition: the smallest error at a rank, and slow.
        Svd = "svd",
        /// The generalised Nyström approximation.
        Nystrom = "nystrom",
        /// Integers of `bits` bits, in groups.
        Quantized = "quantized",
        /// Components in a basis of the site, quantized with more bits where they vary more, `bits`
        /// per element on average.
        Coded = "coded",
        /// Components in a basis of the site that all ranks share.
        Shared = "shared",
    }
}

impl CompressionMethod {
    /// Whether it is a low-rank method.
    pub fn has_rank(self) -> bool {
        !matches!(self, Self::Exact | Self::Quantized | Self::Coded)
    }
}

choice! {
    /// The test matrix of the range finder.
    Sketch {
        /// The columns with the largest norms.
        Norm = "norm",
        /// Columns drawn uniformly, as in LoRAct.
        Uniform = "uniform",
        /// Gaussian combinations of all columns.
        Gaussian = "gaussian",
        /// The basis of the previous batch of the site; for the first batch the columns with the
        /// largest norms.
        Warm = "warm",
    }
}

choice! {
    /// The type of the factors.
    Factors {
        /// 32-bit floating point.
        F32 = "f32",
        /// bfloat16.
        Bf16 = "bf16",
        /// 8-bit integers with a scale for each component or token.
        Int8 = "int8",
    }
}

choice! {
    /// How a component is rounded to one of its levels.
    Rounding {
        /// Along a trellis over the tokens (trellis-coded quantization): the smallest error.
        Trellis = "trellis",
        /// To the nearest level: faster.
        Nearest = "nearest",
        /// To one of the two levels around it at random, so that it is unbiased.
        Stochastic = "stochastic",
    }
}

/// The bits of an element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bits {
    /// This number.
    Number(f64),
    /// `"auto"`: the fewest that meet `error`, with `coded` only.
    Auto,
}

/// The number of columns that are saved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// This fraction of the site's width, above 0 and at most 1.
    Fraction(f64),
    /// This many columns, at least one.
    Columns(i64),
    /// `"auto"`: the fewest that meet `error`, at most `max_rank`.
    Auto,
}

impl Rank {
    /// Columns saved of a site of this width: a fraction is rounded to the nearest whole number;
    /// `None` for `"auto"`.
    pub fn of(self, width: i64) -> Option<i64> {
        match self {
            Self::Fraction(fraction) => Some((fraction * width as f64).round() as i64),
            Self::Columns(columns) => Some(columns),
            Self::Auto => None,
        }
    }
}

/// The keys that decide how sites are compressed.
pub(crate) const BY: &[&str] = &[
    "activations.sites",
    "activations.method",
    "activations.rank",
    "activations.max_rank",
    "activations.sketch",
    "activations.bits",
    "activations.basis",
    "activations.budget",
    "activations.overrides",
];

/// The condition under which sites are compressed at all.
pub(crate) const SOME_SITE: &str = "sites names a site to compress";

/// The condition that `rule` holds for how at least one site is compressed.
pub(super) fn site(text: impl Into<String>, rule: fn(&CompressionConfig) -> bool) -> When {
    When::new(BY, text, rule)
}

/// The condition that a site is compressed by one of these methods.
macro_rules! methods {
    ($($method:ident),+) => {
        site(one_of("method", &[$(CompressionMethod::$method.as_str()),+]), |site| {
            matches!(site.method, $(CompressionMethod::$method)|+)
        })
    };
}

/// Declares [`CompressionConfig`], which has every value, and [`CompressionOverrides`], which has
/// those that are given.
macro_rules! compression {
    (@words) => { None };
    (@words $words:literal) => { Some($words) };
    ($($(#[doc = $help:literal])+ $key:ident: $type:ty = $default:expr
        $(, default $words:literal)? $(, valid $valid:literal)? $(, within $range:expr)?, when $when:expr, example $example:literal;)+) => {
        table! {
            /// The keys of a compression that are given; the others are those of `[activations]`.
            CompressionOverrides: "activations.overrides" {
                $($(#[doc = $help])+ $key: Option<$type> = None
                    , default "that of [activations]" $(, valid $valid)? $(, within $range)?, when $when, example $example;)+
            }
        }

        /// How a site's tensor is saved, with a value for every key.
        #[derive(Debug, Clone, PartialEq)]
        pub struct CompressionConfig {
            $($(#[doc = $help])+ pub $key: $type,)+
        }

        impl Default for CompressionConfig {
            fn default() -> Self {
                Self { $($key: $default),+ }
            }
        }

        impl Default for CompressionOverrides {
            fn default() -> Self {
                Self { $($key: None),+ }
            }
        }

        impl CompressionOverrides {
            /// `below`, with the keys that are given here in its place.
            fn replacing(&self, below: &CompressionConfig) -> CompressionConfig {
                CompressionConfig { $($key: self.$key.unwrap_or(below.$key)),+ }
            }

            /// Whether no key is given.
            pub(super) fn is_empty(&self) -> bool {
                true $(&& self.$key.is_none())+
            }
        }

        impl CompressionConfig {
            /// The default of each key in TOML.
            fn defaults() -> Vec<Option<String>> {
                let words: Vec<Option<&str>> = vec![$(compression!(@words $($words)?)),+];
                let values = [$(Value::write(&Self::default().$key)),+];
                words.into_iter().zip(values).map(|(words, value)| words.map(str::to_owned).or(value.map(|value| value.to_string()))).collect()
            }

            /// Every key as it is given in full.
            fn in_full(&self) -> CompressionOverrides {
                CompressionOverrides { $($key: Some(self.$key)),+ }
            }
        }
    };
}

compression! {
    /// How a site's tensor is saved for backward.
    method: CompressionMethod = CompressionMethod::Quantized,
        default r#""qb" where rank, max_rank or sketch is given, "coded" where budget is given, otherwise "quantized""#,
        when site(SOME_SITE, |_| true),
        example r#""coded""#;
    /// The number of columns of the factors.
    rank: Rank = Rank::Fraction(0.25),
        when site(r#"method is a low-rank method ("qb", "rowspace", "rsvd", "svd", "nystrom" or "shared")"#, |site| site.method.has_rank()),
        example "0.25";
    /// The relative error of a token, root mean square, that `rank = "auto"` and `bits = "auto"`
    /// must meet.
    error: f64 = 0.1,
        within Range::above(0.0).below(1.0),
        when site(r#"rank or bits = "auto""#, CompressionConfig::meets_error),
        example "0.05";
    /// The largest rank that `rank = "auto"` takes.
    max_rank: Rank = Rank::Fraction(0.5),
        valid "a fraction > 0 and <= 1 of the width, or a whole number of columns >= 1",
        when site(r#"rank = "auto""#, |site| site.method.has_rank() && site.rank == Rank::Auto),
        example "64";
    /// The test matrix of the range finder.
    sketch: Sketch = Sketch::Norm, when methods!(Qb, RowSpace), example r#""warm""#;
    /// Scale each token's row to its exact norm.
    keep_norms: bool = true,
        when methods!(Qb, RowSpace, Rsvd, Svd, Nystrom, Coded, Shared),
        example "false";
    /// The type of the factors; with `"coded"` that of the basis.
    factors: Factors = Factors::Bf16,
        when site(r#"method = "coded" with basis = "principal", or a low-rank method"#, CompressionConfig::has_basis),
        example r#""int8""#;
    /// Passes over the tensor that sharpen the basis.
    power_iterations: u32 = 0,
        within Range::at_least(0.0).at_most(100.0),
        when methods!(Rsvd),
        example "1";
    /// Bits of an element.
    bits: Bits = Bits::Number(8.0),
        default r#"8, with "coded" 2"#,
        when methods!(Quantized, Coded),
        example "4";
    /// The number of neighbours in a row that share a scale.
    group: i64 = 32, within Range::above(0.0).at_most(MOST_COLUMNS), when methods!(Quantized), example "64";
    /// How a component is rounded to one of its levels.
    rounding: Rounding = Rounding::Trellis, when methods!(Coded), example r#""nearest""#;
    /// The basis is updated when the error has grown to this multiple of what the basis promises.
    drift: f64 = 1.1,
        within Range::at_least(0.0),
        when site(r#"method = "coded" with basis = "principal""#, |site| site.method == CompressionMethod::Coded && site.basis == BasisKind::Principal),
        example "1.5";
    /// The basis of whose components the codes are.
    basis: BasisKind = BasisKind::Principal, when methods!(Coded), example r#""none""#;
}

impl CompressionConfig {
    /// Whether `error` determines its rank or its bits.
    fn meets_error(&self) -> bool {
        match self.method {
            CompressionMethod::Coded => self.bits == Bits::Auto,
            method => method.has_rank() && self.rank == Rank::Auto,
        }
    }

    /// Whether a site has a basis that it remembers from step to step.
    pub(super) fn remembers_basis(&self) -> bool {
        match self.method {
            CompressionMethod::Coded => self.basis == BasisKind::Principal,
            CompressionMethod::Qb | CompressionMethod::RowSpace => self.sketch == Sketch::Warm,
            method => method == CompressionMethod::Shared,
        }
    }

    /// Whether it has a basis, whose type `factors` is.
    fn has_basis(&self) -> bool {
        self.method.has_rank()
            || (self.method == CompressionMethod::Coded && self.basis == BasisKind::Principal)
    }

    /// Refuses values that do not go together.
    pub(super) fn check(&self, table: &Table<'_>) -> Result<(), Error> {
        use CompressionMethod::{Coded, Qb, Quantized, RowSpace, Shared};
        let is_warm = matches!(self.method, Qb | RowSpace) && self.sketch == Sketch::Warm;
        table.require(
            "sketch",
            !is_warm || self.rank != Rank::Auto,
            "\"warm\" needs a given rank, not \"auto\"",
        )?;
        let is_auto = self.method == Shared && self.rank == Rank::Auto;
        table.require(
            "rank",
            !is_auto,
            "cannot be \"auto\" for method = \"shared\", whose basis all ranks share",
        )?;
        let has_integers = self.bits == Bits::Number(8.0) || self.bits == Bits::Number(4.0);
        table.require(
            "bits",
            self.method != Quantized || has_integers,
            "must be 8 or 4 for method = \"quantized\"",
        )?;
        let is_int8 = self.method == Coded
            && self.basis == BasisKind::Principal
            && self.factors == Factors::Int8;
        table.require("factors", !is_int8, "cannot be \"int8\" for method = \"coded\"")?;
        table.require("max_rank", self.max_rank != Rank::Auto, "cannot be \"auto\"")
    }
}

impl CompressionOverrides {
    /// `below`, with the keys that are given here in its place.
    pub(super) fn over(&self, below: &CompressionConfig) -> CompressionConfig {
        let mut config = self.replacing(below);
        // The number of bits of an integer says nothing about codes.
        if self.bits.is_none()
            && config.method == CompressionMethod::Coded
            && below.method != CompressionMethod::Coded
        {
            config.bits = Bits::Number(2.0);
        }
        config
    }
}

/// The keys of `[activations]` itself: those that are not given have their defaults.
impl Declared for CompressionConfig {
    const NAME: &'static str = "activations";

    fn about() -> String {
        CompressionOverrides::about()
    }

    fn keys() -> Vec<Key> {
        CompressionOverrides::keys()
            .into_iter()
            .zip(Self::defaults())
            .map(|(key, default)| Key { default, ..key })
            .collect()
    }

    fn read(table: &Table<'_>) -> Result<Self, Error> {
        let given = CompressionOverrides::read(table)?;
        let method = if table.has("budget") {
            CompressionMethod::Coded
        } else if given.rank.is_some() || given.max_rank.is_some() || given.sketch.is_some() {
            CompressionMethod::Qb
        } else {
            CompressionMethod::Quantized
        };
        let given = CompressionOverrides { method: given.method.or(Some(method)), ..given };
        let config = given.over(&Self::default());
        config.check(table)?;
        Ok(config)
    }

    fn write(&self) -> Vec<(&'static str, toml::Value)> {
        self.in_full().write()
    }
}

impl Value for Bits {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match (value.as_str(), number(value)) {
            (Some("auto"), _) => Ok(Self::Auto),
            (_, Some(bits)) if bits > 0.0 && bits <= 16.0 => Ok(Self::Number(bits)),
            (_, Some(_)) => Err(at.error("must be > 0 and <= 16")),
            _ => Err(at.cannot_be(value)),
        }
    }

    fn write(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Number(bits) => (*bits).into(),
            Self::Auto => "auto".into(),
        })
    }

    fn valid(_: Range) -> String {
        "8 | 4; with coded a number > 0 and <= 16, or \"auto\"".into()
    }

    fn schema(_: Range) -> Json {
        json!({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 16}, {"const": "auto"}]})
    }
}

impl Value for Rank {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match value {
            toml::Value::Integer(columns) if *columns as f64 > MOST_COLUMNS => {
                Err(at.error(&format!("must be <= {MOST_COLUMNS}")))
            }
            toml::Value::Integer(columns) if *columns > 0 => Ok(Self::Columns(*columns)),
            toml::Value::Float(fraction) if *fraction > 0.0 && *fraction <= 1.0 => {
                Ok(Self::Fraction(*fraction))
            }
            toml::Value::Float(fraction) if *fraction > 1.0 => {
                Err(at
                    .error("must be <= 1 as a fraction; write a number of columns without a point"))
            }
            toml::Value::Integer(_) | toml::Value::Float(_) => Err(at.error("must be > 0")),
            toml::Value::String(name) if name == "auto" => Ok(Self::Auto),
            _ => Err(at.cannot_be(value)),
        }
    }

    fn write(&self) -> Option<toml::Value> {
        Some(match self {
            Self::Fraction(fraction) => (*fraction).into(),
            Self::Columns(columns) => (*columns).into(),
            Self::Auto => "auto".into(),
        })
    }

    fn valid(_: Range) -> String {
        format!(
            "a fraction 0 < r <= 1 of the width, a whole number of columns >= 1 and <= {MOST_COLUMNS}, or \"auto\""
        )
    }

    fn schema(_: Range) -> Json {
        json!({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_COLUMNS}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"const": "auto"}]})
    }
}
