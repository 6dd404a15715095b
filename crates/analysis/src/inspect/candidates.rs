use std::collections::BTreeSet;

use serde::Serialize;
use tch::Kind;

use compression::coded::{Rate, Rounding};
use compression::{Factors, Method, Options, Rank, TestMatrix};

/// A method at a number of bits per element.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateMethod {
    /// As tables call it.
    pub method: &'static str,
    /// The bits per element it may take at most.
    pub bits: f64,
    #[serde(skip)]
    of: Method,
    #[serde(skip)]
    factors: Kind,
    /// Whether inputs of blocks are delta-coded: compared by gradients only, as a delta depends on
    /// other layers.
    #[serde(skip)]
    pub(super) difference: bool,
}

const METHODS: &[(&str, Method, Kind)] = &[
    ("svd", Method::Svd, Kind::BFloat16),
    ("svd, int8", Method::Svd, Kind::Int8),
    ("qb norm", Method::Qb { test_matrix: TestMatrix::Norm }, Kind::BFloat16),
    ("qb uniform (the paper)", Method::Qb { test_matrix: TestMatrix::Uniform }, Kind::BFloat16),
    (
        "rowspace",
        Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true },
        Kind::BFloat16,
    ),
    (
        "rowspace, int8",
        Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true },
        Kind::Int8,
    ),
    (
        "rsvd, 1 power iteration",
        Method::Rsvd { oversampling: 8, power_iterations: 1 },
        Kind::BFloat16,
    ),
    ("nystrom", Method::Nystrom, Kind::BFloat16),
];

/// Integers in groups of 32 and 64: bits of an integer, elements that share a scale.
const QUANTIZED: &[(&str, u8, i64)] = &[
    ("quantized int4", 4, 64),
    ("quantized int4", 4, 32),
    ("quantized int8", 8, 64),
    ("quantized int8", 8, 32),
];

/// Every method at each of these bits per element; quantized ones, which have but one size, once.
/// Of `names`, if there are any, only those that begin with one.
pub(super) fn all(bits: &[f64], names: &[String]) -> Vec<CandidateMethod> {
    let coded = bits.iter().flat_map(|&bits| {
        [
            ("coded", true, false),
            ("coded differences", true, true),
            ("coded differences, no basis", false, true),
        ]
        .map(|(method, rotate, difference)| {
            let of = Method::Coded {
                rate: Rate::Bits(bits),
                rounding: Rounding::Trellis,
                drift: f64::INFINITY,
                rotate,
            };
            CandidateMethod { method, bits, of, factors: Kind::BFloat16, difference }
        })
    });
    let low_rank = bits.iter().flat_map(|&bits| {
        METHODS.iter().map(move |&(method, of, factors)| CandidateMethod {
            method,
            bits,
            of,
            factors,
            difference: false,
        })
    });
    let quantized = QUANTIZED.iter().map(|&(method, bits, group)| CandidateMethod {
        method,
        bits: f64::from(bits) + 16.0 / group as f64,
        of: Method::Quantized { bits, group },
        factors: Kind::BFloat16,
        difference: false,
    });
    let wanted = |candidate: &CandidateMethod| {
        names.is_empty() || names.iter().any(|name| candidate.method.starts_with(name.as_str()))
    };
    low_rank.chain(quantized).chain(coded).filter(wanted).collect()
}

/// The first words of all methods.
pub fn inspected_methods() -> BTreeSet<&'static str> {
    let names = METHODS.iter().map(|(name, ..)| *name).chain(["quantized", "coded"]);
    names.filter_map(|name| name.split([' ', ',']).next()).collect()
}

impl CandidateMethod {
    /// Whether what it does depends on batches before.
    pub(super) fn has_basis(&self) -> bool {
        self.of.is_warm()
    }

    /// The options for a `[rows, columns]` matrix; `None` where the bits do not suffice for one
    /// component.
    pub(super) fn options(&self, rows: i64, columns: i64) -> Option<Options> {
        let budget = (self.bits * (rows * columns) as f64 / 8.0) as u64;
        let most = rows.min(columns);
        let rank = match self.of {
            Method::Quantized { .. } | Method::Coded { .. } => 1,
            _ => {
                let (one, two) = (
                    Factors::bytes_of(rows, columns, 1, self.factors),
                    Factors::bytes_of(rows, columns, 2, self.factors),
                );
                let rank = 1 + (budget.checked_sub(one)? / (two - one)) as i64;
                rank.min(most)
            }
        };
        Some(Options {
            method: self.of,
            rank: Rank::Components(rank),
            keep_norms: true,
            factors: self.factors,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_takes_as_much_as_it_may_and_no_more() {
        for candidate in all(&[1.0, 3.7], &[]) {
            let (rows, columns) = (300, 70);
            let options = candidate.options(rows, columns).unwrap();
            let bits = |rank| {
                let options = Options { rank: Rank::Components(rank), ..options };
                8.0 * options.bytes(rows, columns).unwrap() as f64 / (rows * columns) as f64
            };
            let Rank::Components(rank) = options.rank else { panic!("no number") };
            if !matches!(options.method, Method::Quantized { .. } | Method::Coded { .. }) {
                assert!(
                    bits(rank) <= candidate.bits && bits(rank + 1) > candidate.bits,
                    "{candidate:?}: {rank}"
                );
            }
        }
        assert!(
            all(&[2.0], &["coded".into()])
                .iter()
                .all(|candidate| candidate.method.starts_with("coded"))
        );
        assert!(all(&[0.01], &[])[0].options(300, 70).is_none());
    }
}
