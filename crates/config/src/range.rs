//! The numbers that a key may have.

use serde_json::{Map, Value as Json};

/// Bounds far above what anybody needs, under which no sum or product of a few of them overflows:
/// of steps, of samples, of columns of a factor, of seconds (115 days), and of bytes (1 TiB).
pub(crate) const MOST_STEPS: f64 = 1e12;
pub(crate) const MOST_SAMPLES: f64 = 1e12;
pub(crate) const MOST_COLUMNS: f64 = 65_536.0;
pub(crate) const MOST_SECONDS: f64 = 1e7;
pub(crate) const MOST_BYTES: f64 = 1_099_511_627_776.0;

/// An interval of finite numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    low: Option<Bound>,
    high: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bound {
    value: f64,
    is_included: bool,
}

impl Range {
    /// Every number, infinite ones too.
    pub const ANY: Self = Self { low: None, high: None };

    /// Numbers > `value`.
    pub const fn above(value: f64) -> Self {
        Self { low: Some(Bound { value, is_included: false }), high: None }
    }

    /// Numbers >= `value`.
    pub const fn at_least(value: f64) -> Self {
        Self { low: Some(Bound { value, is_included: true }), high: None }
    }

    /// Those of them < `value`.
    pub const fn below(self, value: f64) -> Self {
        Self { high: Some(Bound { value, is_included: false }), ..self }
    }

    /// Those of them <= `value`.
    pub const fn at_most(self, value: f64) -> Self {
        Self { high: Some(Bound { value, is_included: true }), ..self }
    }

    /// Whether `number` is one of them.
    pub fn contains(&self, number: f64) -> bool {
        let is_above = self
            .low
            .is_none_or(|low| number > low.value || (low.is_included && number == low.value));
        let is_below = self
            .high
            .is_none_or(|high| number < high.value || (high.is_included && number == high.value));
        is_above && is_below && (number.is_finite() || *self == Self::ANY)
    }

    /// `> 0 and <= 1`; empty where every number is in the range.
    pub fn words(&self) -> String {
        let low = self.low.map(|Bound { value, is_included }| {
            format!("{} {value}", if is_included { ">=" } else { ">" })
        });
        let high = self.high.map(|Bound { value, is_included }| {
            format!("{} {value}", if is_included { "<=" } else { "<" })
        });
        low.into_iter().chain(high).collect::<Vec<_>>().join(" and ")
    }

    /// What to say of a number that is not in it.
    pub fn must(&self) -> String {
        format!("must be {}", self.words())
    }

    /// The same as [`Range::words`], for whole numbers of a type whose least value is `least`: `>=
    /// 1`.
    pub fn words_of_whole(&self, least: Option<f64>) -> String {
        let included = |bound: Bound, step: f64| {
            if bound.is_included { bound.value } else { bound.value + step }
        };
        let low = self.low.map(|low| included(low, 1.0)).or(least);
        let whole = Self {
            low: low.map(|value| Bound { value, is_included: true }),
            high: self.high.map(|high| Bound { value: included(high, -1.0), is_included: true }),
        };
        whole.words()
    }

    /// Adds the bounds to a JSON schema of a number.
    pub fn add_to_schema(&self, schema: &mut Map<String, Json>) {
        if let Some(low) = self.low {
            schema.insert(
                if low.is_included { "minimum" } else { "exclusiveMinimum" }.into(),
                low.value.into(),
            );
        }
        if let Some(high) = self.high {
            schema.insert(
                if high.is_included { "maximum" } else { "exclusiveMaximum" }.into(),
                high.value.into(),
            );
        }
    }
}
