//! Checkpoints of a run: written beside training, whole or not at all, and taken up again by as many ranks as there are then.
//!
//! `checkpoints/step-00000100/` in the run's directory holds a safetensors file of each rank ([`share`]), and `manifest.json`, which names
//! every file with its size and checksum ([`manifest`]). It is written into a folder aside that becomes the checkpoint by one rename
//! ([`saver`], [`directory`]). [`resume`](mod@resume) takes the newest that is sound; [`choice`] finds one to be looked at.

mod agreed;
mod choice;
mod directory;
mod manifest;
mod resume;
mod saver;
mod share;
mod states;

pub use agreed::check_agreement;
pub use choice::CheckpointChoice;
pub(crate) use choice::find;
pub use directory::{checkpoints, newest_checkpoint};
pub(crate) use manifest::Manifest;
pub(crate) use resume::{Start, resume};
pub(crate) use saver::{Moment, Saver};
pub(crate) use share::load_parameters;
