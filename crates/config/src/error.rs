//! Why a configuration was refused.

use crate::place::Place;

/// A refused configuration: one line that says where, which key, what is wrong and what would be
/// right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Error {
    place: Place,
    message: String,
}

impl Error {
    /// An error at `place`; the message names table and key.
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}
