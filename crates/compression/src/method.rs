use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::coded::{Coded, Rate, Rounding};
use crate::{Error, Factors, Quantized};

/// What the test matrix `Ω` of [`Method::Qb`] is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestMatrix {
    /// The columns of `A` with the largest norms. Deterministic; the nearest to the optimum on
    /// every activation tried.
    #[default]
    Norm,
    /// Columns of `A` drawn uniformly without replacement, as in the paper.
    Uniform,
    /// Independent standard normals (Halko, Martinsson and Tropp 2011, algorithm 4.1).
    Gaussian,
    /// The right basis of the same site's previous matrix, which the site's
    /// [`SiteState`](crate::SiteState) holds: nearly as good as a power iteration, for one product
    /// less. [`TestMatrix::Norm`] for what it lacks.
    Warm,
}

/// How a matrix is coded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `A ≈ Q (Qᵀ A)`, `Q` an orthonormal basis of `A Ω` (LoRAct, arXiv 2509.23472, algorithm 1).
    Qb {
        /// What `Ω` is made of.
        test_matrix: TestMatrix,
    },
    /// `A ≈ (A V) Vᵀ`, `V` an orthonormal basis of `Nᵀ N Ω`: the row space instead of the column
    /// space, half a power iteration nearer to the optimum, and nothing tall to orthonormalise. As
    /// each token is projected on its own, a few tokens of huge norm do not distort the others.
    RowSpace {
        /// What `Ω` is made of.
        test_matrix: TestMatrix,
        /// `N` is `A` with each row scaled to unit norm, so that all tokens weigh the same, rather
        /// than `A` itself.
        unit_rows: bool,
    },
    /// Randomised singular value decomposition (Halko, Martinsson and Tropp 2011, algorithms 4.4
    /// and 5.1): a Gaussian sketch of `rank + oversampling` directions, sharpened by power
    /// iterations that are orthonormalised throughout, then cut to its best `rank`.
    Rsvd {
        /// Directions beyond the rank.
        oversampling: i64,
        /// Passes over `A` and `Aᵀ`.
        power_iterations: u32,
    },
    /// Truncated singular value decomposition: no code of this rank has a smaller Frobenius error
    /// (Eckart and Young 1936).
    Svd,
    /// Generalised Nyström `A Ω (Ψᵀ A Ω)⁺ Ψᵀ A`: one pass over `A`, and no orthonormalisation of
    /// anything tall (Nakatsukasa 2020).
    Nystrom,
    /// Each element as a signed integer, one scale per group of neighbours in a row. No rank.
    Quantized {
        /// 4 or 8.
        bits: u8,
        /// Elements that share a scale.
        group: i64,
    },
    /// Components of a basis that the site's [`SiteState`](crate::SiteState) holds, each with its
    /// own number of bits ([`coded`](crate::coded)). No rank. The first matrix of a site makes the
    /// basis, held in the dtype of factors.
    Coded {
        /// How many bits.
        rate: Rate,
        /// How values become levels.
        rounding: Rounding,
        /// The basis follows the matrices once their error exceeds what it promises by this factor
        /// ([`Coded::drift`](crate::coded::Coded::drift)), no more often than it pays: at 0 always,
        /// at infinity never. Codes are made in the basis that was there before; what is seen goes
        /// into the next one, which takes over when the last code in the old one is gone.
        drift: f64,
        /// Components are those of the principal basis; otherwise they are the columns themselves,
        /// and the state holds nothing.
        rotate: bool,
    },
    /// `A ≈ (A V) Vᵀ` with the basis `V` that the site's [`SiteState`](crate::SiteState) holds, in
    /// f32, made from its first matrix and updated by [`SiteState::sync`](crate::SiteState::sync)
    /// since. The rank is that of the columns alone: no matrix changes it.
    Shared,
}

impl Default for Method {
    fn default() -> Self {
        Self::Qb { test_matrix: TestMatrix::default() }
    }
}

impl Method {
    /// The name by which configurations and tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qb { .. } => "qb",
            Self::RowSpace { .. } => "rowspace",
            Self::Rsvd { .. } => "rsvd",
            Self::Svd => "svd",
            Self::Nystrom => "nystrom",
            Self::Quantized { .. } => "quantized",
            Self::Coded { .. } => "coded",
            Self::Shared => "shared",
        }
    }

    /// Whether it starts from the site's previous matrix.
    pub fn is_warm(&self) -> bool {
        matches!(
            self,
            Self::Qb { test_matrix: TestMatrix::Warm }
                | Self::RowSpace { test_matrix: TestMatrix::Warm, .. }
                | Self::Coded { rotate: true, .. }
        )
    }
}

/// How many components a code has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rank {
    /// This number of components; more than the matrix can have is refused.
    Components(i64),
    /// A fraction of the width, rounded to the nearest integer, at least 1, and no more than the
    /// matrix can have.
    Fraction(f64),
    /// The fewest components whose [per-token error](crate::per_token_error) is at most `error`.
    Auto {
        /// The largest accepted error, above 0.
        error: f64,
        /// The most components, at least 1; where they do not meet the error, they are taken all
        /// the same.
        max_rank: i64,
    },
}

impl Rank {
    /// Components of a `[rows, columns]` matrix, the most of them for [`Rank::Auto`].
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Setting`].
    pub fn resolve(&self, rows: i64, columns: i64) -> Result<i64, Error> {
        let operation = "decompose";
        let most = rows.min(columns);
        match *self {
            Self::Components(rank) if (1..=most).contains(&rank) => Ok(rank),
            Self::Components(rank) => Err(Error::Rank { operation, rank, rows, columns }),
            Self::Fraction(fraction) if fraction > 0.0 && fraction <= 1.0 => {
                Ok(((fraction * columns as f64).round() as i64).clamp(1, most.max(1)))
            }
            Self::Fraction(fraction) => Err(Error::Setting {
                operation,
                option: "fraction",
                expected: "above 0 and at most 1",
                got: fraction.to_string(),
            }),
            Self::Auto { error, .. } if !(error > 0.0 && error.is_finite()) => {
                Err(Error::Setting {
                    operation,
                    option: "error",
                    expected: "above 0",
                    got: error.to_string(),
                })
            }
            Self::Auto { max_rank, .. } if max_rank < 1 => Err(Error::Setting {
                operation,
                option: "max_rank",
                expected: "at least 1",
                got: max_rank.to_string(),
            }),
            Self::Auto { max_rank, .. } => Ok(max_rank.min(most)),
        }
    }
}

/// The options of [`decompose`](crate::decompose).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How the matrix is coded.
    pub method: Method,
    /// How many components; without meaning for [`Method::Quantized`] and [`Method::Coded`].
    pub rank: Rank,
    /// Rescale each row of the approximation to the row's exact norm (folded into the left factor,
    /// so it takes no space). Without meaning for [`Method::Quantized`], whose scales keep the
    /// norms already.
    pub keep_norms: bool,
    /// The dtype in which factors are held: `Float`, `Double`, `BFloat16`, `Half`, or `Int8` with
    /// scales. For [`Method::Coded`], that of a new basis, which cannot be `Int8`.
    pub factors: Kind,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::default(),
            rank: Rank::Fraction(0.25),
            keep_norms: true,
            factors: Kind::BFloat16,
        }
    }
}

impl Options {
    /// Bytes of the code of a `[rows, columns]` matrix, the most of them for [`Rank::Auto`] and for
    /// [`Rate::Error`]; without the basis of [`Method::Coded`] and [`Method::Shared`].
    ///
    /// # Errors
    /// As [`Rank::resolve`]; [`Error::Setting`] for unsupported bits and groups.
    pub fn bytes(&self, rows: i64, columns: i64) -> Result<u64, Error> {
        match self.method {
            Method::Quantized { bits, group } => Quantized::bytes_of(rows, columns, bits, group),
            Method::Coded { rate, .. } => Coded::bytes_of(rows, columns, columns, rate),
            // The right factor belongs to the site's state.
            Method::Shared => {
                Ok(Factors::bytes_of(rows, 0, self.rank.resolve(columns, columns)?, self.factors))
            }
            _ => Ok(Factors::bytes_of(
                rows,
                columns,
                self.rank.resolve(rows, columns)?,
                self.factors,
            )),
        }
    }

    /// Bytes of the state of a site of this width, from step to step: a basis, which is there twice
    /// while it is updated, or the factor that the next decomposition starts from.
    pub fn state_bytes(&self, width: i64) -> u64 {
        let element = if self.factors == Kind::Float { 4 } else { 2 };
        match self.method {
            Method::Coded { rotate: true, .. } => 2 * (width * (element * width + 4)) as u64,
            Method::Coded { .. } => 0,
            // In f32, with the sum that it accumulates.
            Method::Shared => {
                self.rank.resolve(width, width).map_or(0, |rank| 2 * 4 * (rank * width) as u64)
            }
            method if method.is_warm() => {
                self.rank.resolve(i64::MAX, width).map_or(0, |rank| (element * rank * width) as u64)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranks_are_numbers_fractions_or_bounds() {
        assert_eq!(Rank::Components(3).resolve(4, 9).unwrap(), 3);
        assert_eq!(Rank::Fraction(0.25).resolve(100, 10).unwrap(), 3);
        assert_eq!(Rank::Fraction(0.001).resolve(100, 10).unwrap(), 1);
        assert_eq!(Rank::Fraction(1.0).resolve(4, 10).unwrap(), 4);
        assert_eq!(Rank::Auto { error: 0.1, max_rank: 7 }.resolve(100, 5).unwrap(), 5);
        assert!(
            Rank::Components(5).resolve(4, 9).unwrap_err().to_string().contains("between 1 and 4")
        );
        for wrong in [Rank::Fraction(0.0), Rank::Fraction(f64::NAN), Rank::Fraction(1.5)] {
            assert!(wrong.resolve(4, 9).unwrap_err().to_string().contains("above 0 and at most 1"));
        }
        assert!(
            Rank::Auto { error: 0.0, max_rank: 7 }
                .resolve(4, 9)
                .unwrap_err()
                .to_string()
                .contains("error = 0")
        );
        assert!(
            Rank::Auto { error: 0.1, max_rank: 0 }
                .resolve(4, 9)
                .unwrap_err()
                .to_string()
                .contains("max_rank = 0")
        );
    }

    #[test]
    fn the_bytes_of_a_code_are_known_beforehand() {
        let options = |method, factors| Options {
            method,
            rank: Rank::Components(5),
            keep_norms: true,
            factors,
        };
        assert_eq!(options(Method::Svd, Kind::BFloat16).bytes(100, 30).unwrap(), 2 * 5 * 130);
        assert_eq!(options(Method::Svd, Kind::Int8).bytes(100, 30).unwrap(), 5 * 130 + 2 * 130);
        assert_eq!(
            options(Method::Quantized { bits: 4, group: 32 }, Kind::Float).bytes(100, 33).unwrap(),
            100 * 17 + 2 * 100 * 2
        );
    }
}
