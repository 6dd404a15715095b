use tch::{TchError, Tensor};

/// A function applied to each element of an MLP's inner width, under the names of transformers'
/// `ACT2FN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`: `silu`, `swish`.
    Silu,
    /// `x · Φ(x)` with the exact normal distribution (Hendrycks and Gimpel 2016, arXiv 1606.08415):
    /// `gelu`.
    Gelu,
    /// The same by a hyperbolic tangent: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`: `quick_gelu`.
    QuickGelu,
    /// `max(x, 0)`: `relu`.
    Relu,
    /// `max(x, 0)²`: `relu2`.
    ReluSquared,
    /// `min(max(x, 0), 6)`: `relu6`.
    Relu6,
    /// `x`, or `x / 100` below 0: `leaky_relu`.
    LeakyRelu,
    /// `sigmoid(x)`: `sigmoid`.
    Sigmoid,
    /// `tanh(x)`: `tanh`.
    Tanh,
    /// `x · tanh(ln(1 + eˣ))`: `mish`.
    Mish,
    /// `x`: `linear`.
    Identity,
}

/// The slope of a leaky ReLU below 0.
const LEAK: f64 = 0.01;

impl Activation {
    /// The function of `x`, a new tensor.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Silu => x.f_silu(),
            Self::Gelu => x.f_gelu("none"),
            Self::GeluTanh => x.f_gelu("tanh"),
            Self::QuickGelu => x.f_mul_scalar(1.702)?.f_sigmoid_()?.f_mul_(x),
            Self::Relu => x.f_relu(),
            Self::ReluSquared => x.f_relu()?.f_square_(),
            Self::Relu6 => x.f_clamp(0.0, 6.0),
            Self::LeakyRelu => x.f_maximum(&x.f_mul_scalar(LEAK)?),
            Self::Sigmoid => x.f_sigmoid(),
            Self::Tanh => x.f_tanh(),
            Self::Mish => x.f_mish(),
            Self::Identity => Ok(x.copy()),
        }
    }

    /// Its derivative at `x`, times `dy`.
    pub(crate) fn backward(self, x: &Tensor, dy: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Silu => x.f_silu_backward(dy),
            Self::Gelu => x.f_gelu_backward(dy, "none"),
            Self::GeluTanh => x.f_gelu_backward(dy, "tanh"),
            Self::QuickGelu => {
                // s + 1.702 x s (1 − s), with s = sigmoid(1.702 x).
                let scaled = x.f_mul_scalar(1.702)?;
                let s = scaled.f_sigmoid()?;
                let slope =
                    scaled.f_mul(&s.f_neg()?.f_add_scalar(1.0)?)?.f_add_scalar(1.0)?.f_mul_(&s)?;
                slope.f_mul(dy)
            }
            Self::Relu => x.f_threshold_backward(dy, 0.0),
            Self::ReluSquared => x.f_relu()?.f_mul_scalar(2.0)?.f_mul_(dy),
            Self::Relu6 => dy.f_mul(&x.f_gt(0.0)?.f_logical_and(&x.f_lt(6.0)?)?),
            Self::LeakyRelu => dy.f_where_self(&x.f_gt(0.0)?, &dy.f_mul_scalar(LEAK)?),
            Self::Sigmoid => {
                let s = x.f_sigmoid()?;
                s.f_neg()?.f_add_scalar(1.0)?.f_mul_(&s)?.f_mul_(dy)
            }
            Self::Tanh => x.f_tanh()?.f_square_()?.f_neg_()?.f_add_scalar_(1.0)?.f_mul_(dy),
            Self::Mish => x.f_mish_backward(dy),
            Self::Identity => Ok(dy.shallow_clone()),
        }
    }
}
