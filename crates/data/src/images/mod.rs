//! Images and the classes they belong to, as a model reads them.
//!
//! 1. [`LabelledImages::open`]: folders named after classes, IDX files as those of MNIST, or
//!    Parquet.
//! 2. [`ImageProcessor`]: what a model's `preprocessor_config.json` says is done to an image: cut
//!    and resized, scaled and normalised.
//! 3. [`Augmentation`]: what chance changes of an image in training.

mod augmentation;
mod folder;
mod idx;
mod labelled;
mod processor;
mod settings;
mod table;

pub use augmentation::Augmentation;
pub use labelled::{ImageKeys, LabelledImages};
pub use processor::ImageProcessor;

#[cfg(test)]
mod tests;
