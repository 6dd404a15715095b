//! Encoders of text and images: what their configurations say, and one entry for each family of
//! them.

mod description;
mod family;
mod image;
mod keys;
mod labels;
mod names;
mod siglip;
mod swin;
mod text;
mod vit;

pub(crate) use description::LAYER_NORM;
pub use description::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, EncoderLayer, ImageConfig,
    InputConfig, NormOrder, Pooling, Positions, RelativePositions, StageConfig, TextConfig,
};
pub use labels::{Labels, Problem};
pub(crate) use names::MergeNames;

use family::EncoderFamily;

/// All families.
pub(super) const FAMILIES: &[&EncoderFamily] =
    &[&text::BERT, &text::ROBERTA, &vit::VIT, &siglip::SIGLIP, &swin::SWIN];
