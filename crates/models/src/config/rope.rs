//! Rotary position embeddings: the base, and how it is stretched for longer texts.

use std::f64::consts::TAU;

/// The rotary position embedding of a model (RoFormer, arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer texts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are changed for longer texts, after transformers' `modeling_rope_utils`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions are divided by `factor`.
    Linear {
        /// The divisor, at least 1.
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, and those between interpolated
    /// (Llama 3.1).
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Frequencies with fewer turns than this in the original context are divided by the whole
        /// factor.
        low_freq_factor: f64,
        /// Frequencies with more turns than this in the original context are kept.
        high_freq_factor: f64,
        /// The context of the pre-training, in tokens.
        original_max_position_embeddings: i64,
    },
    /// The base grows with the sequence once that is longer than `max_positions`; up to there
    /// nothing changes.
    Dynamic {
        /// How many times longer than `max_positions` a sequence may become.
        factor: f64,
        /// The length up to which nothing changes, in tokens.
        max_positions: i64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, with a ramp over the columns
    /// between (YaRN, arXiv 2309.00071).
    Yarn {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Columns that turn more often than this in the original context are kept.
        beta_fast: f64,
        /// Columns that turn less often than this in the original context are divided by the whole
        /// factor.
        beta_slow: f64,
        /// The context of the pre-training, in tokens.
        original_max_position_embeddings: i64,
        /// Whether the ramp begins and ends at whole columns.
        truncate: bool,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
        /// The weight by which latent attention widens its scores (`mscale_all_dim`).
        all_dimensions: Option<f64>,
    },
    /// Each frequency has a divisor of its own, another one for sequences beyond the original
    /// context (LongRoPE, arXiv 2402.13753).
    LongRope {
        /// The divisors within the original context.
        short_factor: Vec<f64>,
        /// The divisors beyond it.
        long_factor: Vec<f64>,
        /// The context of the pre-training, in tokens.
        original_max_position_embeddings: i64,
        /// What cosines and sines are multiplied with.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// `turned` columns of a head are turned.
    pub(super) fn validate(&self, turned: i64) -> Result<(), String> {
        let at_least_one = |factor: f64| match factor.is_finite() && factor >= 1.0 {
            true => Ok(()),
            false => Err(format!("factor {factor} is not at least 1")),
        };
        match *self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => {
                at_least_one(factor)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings: positions,
                attention_factor,
                ..
            } => {
                at_least_one(factor)?;
                if !(beta_slow > 0.0 && beta_fast.is_finite() && beta_slow <= beta_fast) {
                    return Err(format!(
                        "beta_slow {beta_slow} is not between 0 and beta_fast {beta_fast}"
                    ));
                }
                if positions < 1 || !(attention_factor.is_finite() && attention_factor > 0.0) {
                    return Err(format!(
                        "attention_factor {attention_factor} or original_max_position_embeddings {positions} is not positive"
                    ));
                }
                Ok(())
            }
            RopeScaling::LongRope {
                ref short_factor, ref long_factor, attention_factor, ..
            } => {
                for (name, divisors) in
                    [("short_factor", short_factor), ("long_factor", long_factor)]
                {
                    if divisors.len() as i64 != turned / 2
                        || !divisors.iter().all(|divisor| divisor.is_finite() && *divisor > 0.0)
                    {
                        return Err(format!(
                            "{name} is not a list of {} positive numbers",
                            turned / 2
                        ));
                    }
                }
                if !(attention_factor.is_finite() && attention_factor > 0.0) {
                    return Err(format!("attention_factor {attention_factor} is not positive"));
                }
                Ok(())
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: positions,
            } => {
                at_least_one(factor)?;
                if !(low > 0.0 && low < high && high.is_finite()) {
                    return Err(format!(
                        "low_freq_factor {low} is not between 0 and high_freq_factor {high}"
                    ));
                }
                if positions < 1 {
                    return Err(format!(
                        "original_max_position_embeddings {positions} is not positive"
                    ));
                }
                Ok(())
            }
        }
    }
}

impl RopeConfig {
    /// The angle by which one position turns each pair, `width / 2` numbers, scaling applied, in
    /// sequences of `length` tokens (which only [`RopeScaling::Dynamic`] and
    /// [`RopeScaling::LongRope`] ask for).
    pub fn inverse_frequencies(&self, width: i64, length: i64) -> Vec<f64> {
        let theta = match self.scaling {
            RopeScaling::Dynamic { factor, max_positions } if length > max_positions => {
                let stretch = factor * length as f64 / max_positions as f64 - (factor - 1.0);
                self.theta * stretch.powf(width as f64 / (width - 2) as f64)
            }
            _ => self.theta,
        };
        let plain = (0..width / 2).map(|pair| theta.powf(-((2 * pair) as f64) / width as f64));
        match &self.scaling {
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                ..
            } => {
                let divisors = if length > *original { long_factor } else { short_factor };
                plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
            }
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.ramp(width);
                let scaled = |(pair, frequency): (usize, f64)| {
                    let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * divided + frequency * (1.0 - divided)
                };
                plain.enumerate().map(scaled).collect()
            }
            _ => plain.map(|frequency| frequency / self.divisor(frequency)).collect(),
        }
    }

    /// What cosines and sines are multiplied with.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Whether frequencies depend on the length of the sequence, and from which length on.
    pub(crate) fn changes_beyond(&self) -> Option<i64> {
        match self.scaling {
            RopeScaling::Dynamic { max_positions, .. } => Some(max_positions),
            RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                Some(original_max_position_embeddings)
            }
            _ => None,
        }
    }

    /// The pairs between which YaRN goes over from unchanged to divided frequencies.
    fn ramp(&self, width: i64) -> (f64, f64) {
        let RopeScaling::Yarn {
            beta_fast,
            beta_slow,
            original_max_position_embeddings,
            truncate,
            ..
        } = self.scaling
        else {
            return (0.0, 1.0);
        };
        // The pair that turns this often in the original context.
        let pair = |turns: f64| {
            width as f64 * (original_max_position_embeddings as f64 / (turns * TAU)).ln()
                / (2.0 * self.theta.ln())
        };
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
        (low, if high == low { high + 0.001 } else { high })
    }

    /// By how much scaling divides a frequency.
    pub(super) fn divisor(&self, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::None
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::LongRope { .. } => 1.0,
            RopeScaling::Linear { factor } => factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: positions,
            } => {
                let turns = positions as f64 * frequency / TAU;
                // Weight of the kept frequency: 0 at `low` turns and fewer, 1 at `high` turns and
                // more.
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - kept) / factor + kept)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn llama_3_1() -> RopeConfig {
        RopeConfig {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
        }
    }

    /// `_compute_llama3_parameters` of transformers, as it is written there.
    fn reference(frequency: f64) -> f64 {
        let (factor, low, high, old) = (8.0, 1.0, 4.0, 8192.0);
        let wavelength = TAU / frequency;
        if wavelength < old / high {
            frequency
        } else if wavelength > old / low {
            frequency / factor
        } else {
            let smooth = (old / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }

    #[test]
    fn llama3_scaling_is_that_of_transformers() {
        let plain =
            RopeConfig { scaling: RopeScaling::None, ..llama_3_1() }.inverse_frequencies(128, 1);
        let scaled = llama_3_1().inverse_frequencies(128, 1);
        assert_eq!(scaled.len(), 64);
        let mut between = 0;
        for (plain, scaled) in plain.iter().zip(&scaled) {
            assert!((scaled / reference(*plain) - 1.0).abs() < 1e-12);
            between += usize::from(*scaled < plain * 0.999 && *scaled > plain / 8.0 * 1.001);
        }
        assert_eq!((scaled[0], plain[0]), (1.0, 1.0));
        assert!((scaled[63] * 8.0 - plain[63]).abs() < 1e-15);
        assert!(between > 3, "some frequencies lie between the two regimes");
    }

    #[test]
    fn linear_scaling_divides_every_angle() {
        let scaled = RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 4.0 } }
            .inverse_frequencies(4, 1);
        assert!((scaled[0] - 0.25).abs() < 1e-15 && (scaled[1] - 0.0025).abs() < 1e-15);
    }

    #[test]
    fn yarn_keeps_fast_columns_divides_slow_ones_and_goes_over_between() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position_embeddings: 4096,
            truncate: true,
            attention_factor: 1.1,
            all_dimensions: None,
        };
        let plain =
            RopeConfig { theta: 1e4, scaling: RopeScaling::None }.inverse_frequencies(64, 1);
        let scaled = RopeConfig { theta: 1e4, scaling };
        assert_eq!(scaled.attention_factor(), 1.1);
        // Columns turn 32 times at 64 ln(4096 / 64π) / (2 ln 10⁴) = 10.5, rounded down, and once at
        // 22.5, rounded up.
        for (pair, (plain, scaled)) in
            plain.iter().zip(scaled.inverse_frequencies(64, 1)).enumerate()
        {
            let divided = ((pair as f64 - 10.0) / 13.0).clamp(0.0, 1.0);
            assert!((scaled / (plain * (1.0 - 0.75 * divided)) - 1.0).abs() < 1e-12, "{pair}");
        }
    }

    #[test]
    fn dynamic_and_long_scalings_depend_on_the_length() {
        let dynamic = RopeConfig {
            theta: 1e4,
            scaling: RopeScaling::Dynamic { factor: 2.0, max_positions: 10 },
        };
        let plain = RopeConfig { theta: 1e4, scaling: RopeScaling::None }.inverse_frequencies(8, 1);
        assert_eq!(
            (dynamic.inverse_frequencies(8, 10), dynamic.changes_beyond()),
            (plain.clone(), Some(10))
        );
        let base = RopeConfig { theta: 1e4 * 3f64.powf(8.0 / 6.0), scaling: RopeScaling::None };
        for (ours, expected) in
            dynamic.inverse_frequencies(8, 20).iter().zip(base.inverse_frequencies(8, 1))
        {
            assert!((ours / expected - 1.0).abs() < 1e-12);
        }
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0; 4],
            long_factor: vec![1.0, 2.0, 3.0, 4.0],
            original_max_position_embeddings: 10,
            attention_factor: 1.2,
        };
        let long = RopeConfig { theta: 1e4, scaling };
        assert_eq!(long.inverse_frequencies(8, 10), plain);
        let divided: Vec<f64> = plain
            .iter()
            .zip([1.0, 2.0, 3.0, 4.0])
            .map(|(frequency, divisor)| frequency / divisor)
            .collect();
        assert_eq!(long.inverse_frequencies(8, 11), divided);
    }

    #[test]
    fn impossible_scalings_are_refused() {
        let bad = [
            RopeScaling::Linear { factor: 0.5 },
            RopeScaling::Dynamic { factor: f64::NAN, max_positions: 8 },
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            },
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 0,
            },
        ];
        for scaling in bad {
            assert!(scaling.validate(4).is_err(), "{scaling:?}");
        }
        llama_3_1().scaling.validate(4).unwrap();
    }
}
