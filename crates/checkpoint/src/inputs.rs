//! What a run reads, told by fingerprints.

/// What a run reads and its checkpoints do not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputFingerprints {
    /// The fingerprint of the training data.
    pub data: String,
    /// That of the frozen base model; `None` where all weights are in the checkpoint.
    pub base: Option<String>,
}
