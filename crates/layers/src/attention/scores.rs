/// How attention weighs keys: `softmax(cap · tanh(scale · q kᵀ / cap))`, the cap and the dropout of
/// weights being absent in most models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// What the products are multiplied with, mostly `1 / sqrt(d)`.
    pub scale: f64,
    /// The largest score (`attn_logit_softcapping` of Gemma 2).
    pub soft_cap: Option<f64>,
    /// The probability with which a weight is dropped, in training.
    pub dropout: f64,
}

impl From<f64> for Scores {
    /// A scale alone.
    fn from(scale: f64) -> Self {
        Self { scale, soft_cap: None, dropout: 0.0 }
    }
}
