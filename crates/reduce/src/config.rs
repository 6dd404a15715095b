use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::error::{Error, Result};

/// How gradients become their mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is sent.
    pub method: Method,
    /// The seed of PowerSGD's random test matrices.
    pub seed: u64,
    /// Gradients travel in buckets of about this many bytes, counted before compression. 25 MiB is
    /// PyTorch's choice: large enough to fill the wire, small enough that the first is on its way
    /// while later ones are computed.
    pub bucket_bytes: usize,
    /// Whether gradients travel while backward runs.
    pub overlap: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { method: Method::default(), seed: 0, bucket_bytes: 25 << 20, overlap: true }
    }
}

/// What is sent: in TOML `method = "exact"`, `"bf16"`, `\"powersgd\"` with the keys of
/// [`PowerSgdConfig`], or `"shared_basis"` with a `min_ratio`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum Method {
    /// Gradients as they are, in f32.
    Exact,
    /// Gradients rounded to bf16, and their sums too: half the bytes for a relative error of up to
    /// 2⁻⁸ per addition.
    Bf16,
    /// Low-rank factors of matrices; all else exactly.
    PowerSgd(PowerSgdConfig),
    /// Coefficients of matrices whose rows lie in the spaces given to
    /// [`GradientReducer::set_bases`](crate::GradientReducer::set_bases); all else exactly.
    #[serde(rename = "shared_basis")]
    SharedBasis {
        /// A matrix of `[m, n]` is compressed only where its basis has at most `n / min_ratio`
        /// columns.
        min_ratio: f64,
    },
}

impl Default for Method {
    fn default() -> Self {
        Method::PowerSgd(PowerSgdConfig::default())
    }
}

/// PowerSGD, algorithms 1 and 2 of arXiv 1905.13727.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PowerSgdConfig {
    /// The rank of the factors, at least 1; of smaller matrices their smaller side.
    pub rank: i64,
    /// Before this step gradients are sent exactly: early on they change too much to be followed.
    pub start_step: u64,
    /// A matrix of `[m, n]` at rank `k` is compressed only if that makes it this much smaller: `m n
    /// / (k (m + n)) >= min_ratio`.
    pub min_ratio: f64,
    /// Whether each rank remembers what compression lost, and adds it to its next gradient.
    pub error_feedback: bool,
    /// Whether a step starts from the last step's factor. Otherwise it draws a Gaussian one of its
    /// own.
    pub warm_start: bool,
}

impl Default for PowerSgdConfig {
    fn default() -> Self {
        PowerSgdConfig {
            rank: 4,
            start_step: 10,
            min_ratio: 2.0,
            error_feedback: true,
            warm_start: true,
        }
    }
}

impl PowerSgdConfig {
    /// Whether a gradient of this shape is compressed: as `[m, n]` (all dimensions but the first in
    /// one), at which rank.
    pub(crate) fn compression(&self, shape: &[i64]) -> Option<(i64, i64, i64)> {
        let (&m, rest) = shape.split_first()?;
        let n: i64 = rest.iter().product();
        let k = self.rank.min(m).min(n);
        let ratio = (m * n) as f64 / (k * (m + n)) as f64;
        (!rest.is_empty() && k > 0 && ratio >= self.min_ratio).then_some((m, n, k))
    }
}

impl Method {
    /// Bytes that the reducer holds for a gradient of this shape and dtype in addition to it:
    /// buffers of another dtype (a gradient of the buffer's dtype is a view of it), and PowerSGD's
    /// factors and error. Without the coefficients of [`Method::SharedBasis`].
    pub fn buffer_bytes(&self, shape: &[i64], kind: Kind) -> u64 {
        let elements = shape.iter().product::<i64>() as u64;
        let buffer =
            |own: Kind| if own == kind { 0 } else { elements * own.elt_size_in_bytes() as u64 };
        match self {
            Method::Bf16 => buffer(Kind::BFloat16),
            Method::PowerSgd(config) => {
                let state = config.compression(shape).map_or(0, |(m, n, k)| {
                    let error = if config.error_feedback { elements } else { 0 };
                    // P, Q, and the Q to start from.
                    4 * (error + (k * (m + 2 * n)) as u64)
                });
                buffer(Kind::Float) + state
            }
            Method::Exact | Method::SharedBasis { .. } => buffer(Kind::Float),
        }
    }

    /// Bytes of the coefficients that are sent in place of a gradient `[m, n]` whose rows lie in a
    /// basis of `k` columns; 0 where the gradient is sent itself.
    pub fn coefficient_bytes(&self, [m, n]: [i64; 2], k: i64) -> u64 {
        match self {
            Method::SharedBasis { min_ratio } if is_smaller(n, k, *min_ratio) => 4 * (m * k) as u64,
            _ => 0,
        }
    }
}

/// Whether `k` coefficients in place of `n` elements are smaller by `min_ratio`.
pub(crate) fn is_smaller(n: i64, k: i64, min_ratio: f64) -> bool {
    n as f64 >= min_ratio * k as f64
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |key, value: String, valid| Err(Error::Config { key, value, valid });
        if self.bucket_bytes == 0 {
            return refuse("bucket_bytes", "0".into(), "at least 1");
        }
        let min_ratio = match &self.method {
            Method::PowerSgd(powersgd) if powersgd.rank < 1 => {
                return refuse("rank", powersgd.rank.to_string(), "at least 1");
            }
            Method::PowerSgd(PowerSgdConfig { min_ratio, .. })
            | Method::SharedBasis { min_ratio } => *min_ratio,
            Method::Exact | Method::Bf16 => return Ok(()),
        };
        if min_ratio.is_nan() || min_ratio < 0.0 {
            return refuse("min_ratio", min_ratio.to_string(), "0 or more");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_matrix_is_compressed_where_it_pays() {
        let config = PowerSgdConfig::default();
        // 64 * 64 / (4 * 128) = 8; 16 * 16 / (4 * 32) = 2; 16 * 15 / (4 * 31) < 2.
        assert_eq!(config.compression(&[64, 64]), Some((64, 64, 4)));
        assert_eq!(config.compression(&[16, 16]), Some((16, 16, 4)));
        assert_eq!(config.compression(&[16, 15]), None);
        assert_eq!(config.compression(&[64, 4, 16]), Some((64, 64, 4)));
    }

    #[test]
    fn vectors_and_empty_tensors_are_never_compressed() {
        let config = PowerSgdConfig { min_ratio: 0.0, ..PowerSgdConfig::default() };
        assert_eq!(config.compression(&[]), None);
        assert_eq!(config.compression(&[1000]), None);
        assert_eq!(config.compression(&[0, 7]), None);
        assert_eq!(config.compression(&[7, 0]), None);
        assert_eq!(config.compression(&[2, 3]), Some((2, 3, 2)));
    }

    #[test]
    fn a_method_is_a_table_of_toml() {
        assert_eq!(toml::from_str::<Method>("method = \"exact\"").unwrap(), Method::Exact);
        assert_eq!(toml::from_str::<Method>("method = \"bf16\"").unwrap(), Method::Bf16);
        let shared =
            toml::from_str::<Method>("method = \"shared_basis\"\nmin_ratio = 2.0").unwrap();
        assert_eq!(shared, Method::SharedBasis { min_ratio: 2.0 });
        let method =
            toml::from_str::<Method>("method = \"powersgd\"\nrank = 8\nwarm_start = false")
                .unwrap();
        assert_eq!(
            method,
            Method::PowerSgd(PowerSgdConfig {
                rank: 8,
                warm_start: false,
                ..PowerSgdConfig::default()
            })
        );
        assert!(toml::from_str::<Method>("method = \"powersgd\"\nrang = 8").is_err());
        let config = Config { seed: 7, ..Config::default() };
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn nonsense_is_refused_by_its_key() {
        let key = |config: PowerSgdConfig| match (Config {
            method: Method::PowerSgd(config),
            ..Config::default()
        })
        .validate()
        {
            Err(Error::Config { key, .. }) => key,
            other => panic!("{other:?}"),
        };
        assert_eq!(key(PowerSgdConfig { rank: 0, ..PowerSgdConfig::default() }), "rank");
        assert_eq!(
            key(PowerSgdConfig { min_ratio: f64::NAN, ..PowerSgdConfig::default() }),
            "min_ratio"
        );
        let shared = Method::SharedBasis { min_ratio: -1.0 };
        assert!(Config { method: shared, ..Config::default() }.validate().is_err());
        assert!(Config { bucket_bytes: 0, ..Config::default() }.validate().is_err());
        assert!(Config::default().validate().is_ok());
    }
}
