use super::levels::UNIT;
use super::pack::LANES;
use super::small_float::scale;
use super::widths::EXACT;

/// How each component is coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bits of a token's code.
    pub widths: Vec<u8>,
    /// The byte of its scale.
    pub scales: Vec<u8>,
}

/// Components whose sums over rows are gathered one after another. Blocks run side by side, and
/// their sums are added in order, so that the result does not depend on how many cores there are.
pub(super) const BLOCK: usize = 32;

/// What [`Components::encode`](super::Components::encode) makes of a matrix.
#[derive(Debug, PartialEq)]
pub struct Encoded<Codes = Vec<u8>> {
    /// Components one after another, those of width 0 absent; [`Plan::code_bytes`].
    pub codes: Codes,
    /// `Σ q²` of each row's decoded components `q`, before the gain.
    pub energies: Vec<f32>,
    /// `Σ q y` of each row.
    pub along: Vec<f32>,
}

impl Plan {
    /// Bits of a row.
    pub fn bits(&self) -> u64 {
        self.widths.iter().map(|&width| u64::from(width)).sum()
    }

    /// Bytes of the codes of `rows`: eight rows at a time.
    pub fn code_bytes(&self, rows: usize) -> usize {
        rows.div_ceil(LANES) * self.bits() as usize
    }

    /// Components that have bits, in order.
    pub fn active(&self) -> Vec<usize> {
        (0..self.widths.len()).filter(|&component| self.widths[component] > 0).collect()
    }

    /// What one level unit, or one step of an exact component, stands for.
    pub fn step(&self, component: usize) -> f32 {
        let scale = scale(self.scales[component]);
        if self.widths[component] == EXACT { scale / 32768.0 } else { scale / UNIT }
    }
}
