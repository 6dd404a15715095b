use tch::{Device, Kind, Tensor};

use crate::Error;

/// Which tokens a token attends to.
#[derive(Debug)]
pub enum Mask {
    /// All.
    Full,
    /// Itself and those before it.
    Causal,
    /// Those where this is 0 and not −∞: `[batch or 1, heads or 1, queries or 1, keys]`, in the
    /// dtype of the queries.
    Additive(Tensor),
}

impl Mask {
    /// The same mask, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Causal => Self::Causal,
            Self::Additive(mask) => Self::Additive(mask.shallow_clone()),
        }
    }

    pub(crate) fn additive(&self) -> Option<&Tensor> {
        match self {
            Self::Additive(mask) => Some(mask),
            _ => None,
        }
    }

    /// 0 where `allowed`, else −∞.
    fn allowing(allowed: &Tensor, kind: Kind) -> Result<Self, Error> {
        let mask = Tensor::f_zeros(allowed.size(), (kind, allowed.device()))?;
        Ok(Self::Additive(mask.f_masked_fill(&allowed.f_logical_not()?, f64::NEG_INFINITY)?))
    }
}

/// The mask of `tokens` that follow `seen` others: a token attends to itself and those before it,
/// with a `window` to no more than that many, itself included (`sliding_window` of transformers).
/// It is a tensor only where it must be.
///
/// # Errors
/// Those of libtorch.
pub fn causal_mask(
    tokens: i64,
    seen: i64,
    window: Option<i64>,
    kind: Kind,
    device: Device,
) -> Result<Mask, Error> {
    let window = window.filter(|window| *window < seen + tokens);
    match (window, seen, tokens) {
        (None, 0, _) => return Ok(Mask::Causal),
        (None, _, 1) => return Ok(Mask::Full),
        _ => {}
    }
    let allowed = reach(tokens, seen, window, device)?.f_view([1, 1, tokens, seen + tokens])?;
    Mask::allowing(&allowed, kind)
}

/// The mask of packed rows: as [`causal_mask`], and of its own segment only. `segments` `[batch,
/// tokens]` are integers.
///
/// # Errors
/// Those of libtorch.
pub fn segment_mask(segments: &Tensor, window: Option<i64>, kind: Kind) -> Result<Mask, Error> {
    let tokens = segments.size()[1];
    let same = segments.f_unsqueeze(2)?.f_eq_tensor(&segments.f_unsqueeze(1)?)?;
    let allowed = same.f_logical_and(&reach(tokens, 0, window, segments.device())?)?;
    Mask::allowing(&allowed.f_view([-1, 1, tokens, tokens])?, kind)
}

/// The mask of rows whose padding is not attended to: `present` `[batch, tokens]` (integers) is 0
/// where there is padding. A tensor only where some is.
///
/// # Errors
/// Those of libtorch.
pub fn padding_mask(present: &Tensor, kind: Kind) -> Result<Mask, Error> {
    let allowed = present.f_ne(0)?;
    if allowed.device() == Device::Cpu && bool::try_from(allowed.f_all()?)? {
        return Ok(Mask::Full);
    }
    let size = present.size();
    Mask::allowing(&allowed.f_view([size[0], 1, 1, size[1]])?, kind)
}

/// The mask of windows whose tokens come from several regions: a token attends to those of its own.
/// `regions` `[windows, tokens]` (integers); a batch of images has its windows one image after the
/// other, `images` of them.
///
/// # Errors
/// Those of libtorch.
pub fn window_mask(regions: &Tensor, images: i64, kind: Kind) -> Result<Mask, Error> {
    let same = regions.f_unsqueeze(2)?.f_eq_tensor(&regions.f_unsqueeze(1)?)?;
    Mask::allowing(&same.f_unsqueeze(1)?.f_repeat([images, 1, 1, 1])?, kind)
}

/// Whether a key lies in reach of a query, `[tokens, seen + tokens]`.
fn reach(tokens: i64, seen: i64, window: Option<i64>, device: Device) -> Result<Tensor, Error> {
    let all = Tensor::f_ones([tokens, seen + tokens], (Kind::Bool, device))?;
    let before = all.f_tril(seen)?;
    Ok(match window {
        Some(window) => before.f_logical_and(&all.f_triu(seen + 1 - window)?)?,
        None => before,
    })
}
