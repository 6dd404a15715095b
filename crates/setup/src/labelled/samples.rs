//! What texts and images with labels have in common.

use std::sync::Arc;

use tch::Device;

use models::EncoderInputs;

use crate::Result;

/// The labelled samples of one file or folder.
pub(super) trait LabelledSamples {
    /// The number of samples.
    fn len(&self) -> usize;

    /// The index of a sample's class.
    fn class(&self, index: usize) -> u32;

    /// Its length in tokens, as the model sees it.
    fn tokens(&self, index: usize) -> usize;

    /// Samples as the model reads them; with `augmentation_seed` randomly augmented, as in
    /// training.
    fn inputs(
        &self,
        indices: &[usize],
        augmentation_seed: Option<u64>,
        device: Device,
    ) -> Result<EncoderInputs>;
}

/// Samples as they were read, before a validation split is taken.
pub(super) struct LoadedSamples {
    pub labels: Vec<String>,
    pub train: Arc<dyn LabelledSamples>,
    pub eval: Option<Arc<dyn LabelledSamples>>,
    /// A hash of what determined the samples.
    pub fingerprint: String,
}
