//! Positive numbers quantized: a float's exponent and the top of its mantissa, without the sign
//! that they do not have.

/// Exponents below that of 2⁻³⁰ are not counted in a scale, times the eight mantissas of each.
const LEAST: u32 = (127 - 30) * 8;

/// The scale of a component from its byte: eight steps to an octave, from 2⁻³⁰ to 3.75.
#[inline]
pub(crate) fn scale(code: u8) -> f32 {
    f32::from_bits((LEAST + u32::from(code)) << 20)
}

/// The byte of the largest scale that is not above `value`.
pub(crate) fn scale_below(value: f32) -> u8 {
    (value.to_bits() >> 20).saturating_sub(LEAST).min(255) as u8
}

/// The byte of the least scale that is not below `value`.
pub(crate) fn scale_above(value: f32) -> u8 {
    let below = scale_below(value);
    below.saturating_add(u8::from(scale(below) < value))
}

/// The gain of a token from its 16 bits: eight for the exponent and eight for the mantissa, one
/// more than bf16 has.
#[inline]
pub fn gain(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 15)
}

/// The 16 bits of the gain nearest to `value`, which is neither negative nor NaN: within 2⁻⁹ of it.
#[inline]
pub fn gain_near(value: f32) -> u16 {
    const LARGEST: u32 = f32::MAX.to_bits() >> 15;
    (value.to_bits().saturating_add(1 << 14) >> 15).min(LARGEST) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_stand_on_either_side_and_gains_are_near() {
        for code in 0..=255 {
            assert_eq!((scale_below(scale(code)), scale_above(scale(code))), (code, code));
        }
        for value in [1e-9f32, 0.1, 0.7, 1.0, 1.01, 3.0] {
            assert!(scale(scale_below(value)) <= value && scale(scale_above(value)) >= value);
            assert!(scale(scale_above(value)) <= value * 1.125);
        }
        for value in [0.0, 1e-30, 1.0, 1.003, 1.9999, 1e30] {
            assert!((gain(gain_near(value)) - value).abs() <= value / 512.0, "{value}");
        }
        assert!(gain(gain_near(f32::MAX)).is_finite());
    }
}
