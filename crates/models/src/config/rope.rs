//! Rotary position embeddings: the base, and how it is stretched for longer texts.

use std::f64::consts::TAU;

/// The rotary position embedding of a model (RoFormer, arXiv 2104.09864), in the half-split layout of Hugging Face.
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
    /// Low frequencies are divided by `factor`, high ones kept, and those between interpolated (Llama 3.1).
    Llama3 {
        /// The divisor of the lowest frequencies.
        factor: f64,
        /// Frequencies with fewer turns than this in the original context are divided by the whole factor.
        low_freq_factor: f64,
        /// Frequencies with more turns than this in the original context are kept.
        high_freq_factor: f64,
        /// The context of the pre-training, in tokens.
        original_max_position_embeddings: i64,
    },
    /// The base grows with the sequence once that is longer than `max_positions`; up to there nothing changes.
    Dynamic {
        /// How many times longer than `max_positions` a sequence may become.
        factor: f64,
    },
}

impl RopeScaling {
    pub(super) fn validate(&self) -> Result<(), String> {
        let at_least_one = |factor: f64| match factor.is_finite() && factor >= 1.0 {
            true => Ok(()),
            false => Err(format!("factor {factor} is not at least 1")),
        };
        match *self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => at_least_one(factor),
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: positions } => {
                at_least_one(factor)?;
                if !(low > 0.0 && low < high && high.is_finite()) {
                    return Err(format!("low_freq_factor {low} is not between 0 and high_freq_factor {high}"));
                }
                if positions < 1 {
                    return Err(format!("original_max_position_embeddings {positions} is not positive"));
                }
                Ok(())
            }
        }
    }
}

impl RopeConfig {
    /// The angle by which one position turns each pair: `head_dim / 2` numbers, scaling applied. For
    /// [`RopeScaling::Dynamic`] these are the angles of sequences up to `max_positions`.
    pub fn inverse_frequencies(&self, head_dim: i64) -> Vec<f64> {
        let plain = (0..head_dim / 2).map(|pair| self.theta.powf(-((2 * pair) as f64) / head_dim as f64));
        plain.map(|frequency| frequency / self.divisor(frequency)).collect()
    }

    /// By how much scaling divides a frequency.
    pub(super) fn divisor(&self, frequency: f64) -> f64 {
        match self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => 1.0,
            RopeScaling::Linear { factor } => factor,
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: positions } => {
                let turns = positions as f64 * frequency / TAU;
                // Weight of the kept frequency: 0 at `low` turns and fewer, 1 at `high` turns and more.
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
        let plain = RopeConfig { scaling: RopeScaling::None, ..llama_3_1() }.inverse_frequencies(128);
        let scaled = llama_3_1().inverse_frequencies(128);
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
        let scaled = RopeConfig { theta: 1e4, scaling: RopeScaling::Linear { factor: 4.0 } }.inverse_frequencies(4);
        assert!((scaled[0] - 0.25).abs() < 1e-15 && (scaled[1] - 0.0025).abs() < 1e-15);
    }

    #[test]
    fn impossible_scalings_are_refused() {
        let bad = [
            RopeScaling::Linear { factor: 0.5 },
            RopeScaling::Dynamic { factor: f64::NAN },
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 4.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 },
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 0 },
        ];
        for scaling in bad {
            assert!(scaling.validate().is_err(), "{scaling:?}");
        }
        llama_3_1().scaling.validate().unwrap();
    }
}
