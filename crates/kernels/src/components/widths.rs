use super::levels::WIDEST;

/// The widths that a component's code can have: none, 1 to 8 bits, or 16, which is as good as
/// exact.
pub const WIDTHS: [u8; WIDEST + 2] = [0, 1, 2, 3, 4, 5, 6, 7, 8, EXACT];

/// The width of a component that is stored as 16-bit integers.
pub const EXACT: u8 = 16;

/// What a component loses of its sum of squares at each of the [`WIDTHS`].
pub type Losses = [f64; WIDTHS.len()];

/// The byte of a component's best scale at each of the [`WIDTHS`].
pub type Scales = [u8; WIDTHS.len()];
