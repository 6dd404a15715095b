use serde::{Deserialize, Serialize};

/// How a value becomes one of its quantizer's levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Along a trellis: the least error.
    #[default]
    Trellis,
    /// To the nearest level: three times as fast to code, for about a fifth of a bit.
    Nearest,
    /// To one of the two levels around it, drawn so that a component that has bits is unbiased. The
    /// norms of rows are then right in the mean only.
    Stochastic,
}
