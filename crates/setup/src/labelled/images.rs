//! Labelled images.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Tensor};

use config::Run;
use data::images::{Augmentation, ImageKeys, ImageProcessor, LabelledImages};
use models::{Checkpoint, EncoderInputs, ImageConfig, InputConfig};

use super::samples::{LabelledSamples, LoadedSamples};
use crate::Result;
use crate::task_mismatch::task_mismatch;

/// Images, decoded and resized when they are needed.
pub(super) struct Images {
    images: LabelledImages,
    processor: Arc<ImageProcessor>,
    augmentation: Augmentation,
    /// Channels, height and width.
    shape: [i64; 3],
    tokens: usize,
}

impl Images {
    /// Opens the training and the validation images; of the classes `labels` if they are known.
    pub fn read(
        run: &Run,
        checkpoint: &Checkpoint,
        labels: Option<&[String]>,
    ) -> Result<LoadedSamples> {
        let config = checkpoint.encoder_config()?;
        let InputConfig::Image(input) = &config.input else {
            return Err(task_mismatch(run, config));
        };
        let keys =
            ImageKeys { image: run.data.image_key.clone(), label: run.data.label_key.clone() };
        let train = LabelledImages::open(run.data.train.first(), &keys, labels)?;
        let eval = run
            .data
            .eval
            .as_ref()
            .map(|eval| LabelledImages::open(eval.first(), &keys, Some(train.labels())))
            .transpose()?;
        let labels = train.labels().to_vec();
        let fingerprint =
            format!("{} {:?}", train.fingerprint(), eval.as_ref().map(LabelledImages::fingerprint));
        let processor = Arc::new(image_processor(&run.model.path, input)?);
        let samples = |images| {
            Arc::new(Self {
                images,
                processor: processor.clone(),
                augmentation: Augmentation { flip: run.data.flip, crop: run.data.crop },
                shape: [input.channels, input.size[0], input.size[1]],
                tokens: image_tokens(input) as usize,
            }) as Arc<dyn LabelledSamples>
        };
        Ok(LoadedSamples { labels, train: samples(train), eval: eval.map(samples), fingerprint })
    }
}

impl LabelledSamples for Images {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn class(&self, index: usize) -> u32 {
        self.images.class(index)
    }

    fn tokens(&self, _index: usize) -> usize {
        self.tokens
    }

    fn inputs(
        &self,
        indices: &[usize],
        augmentation_seed: Option<u64>,
        device: Device,
    ) -> Result<EncoderInputs> {
        let numbers = self.processor.batch(
            &self.images,
            indices,
            augmentation_seed.map(|seed| (self.augmentation, seed)),
        )?;
        let [channels, height, width] = self.shape;
        let pixels = Tensor::f_from_slice(&numbers)?.f_view([
            indices.len() as i64,
            channels,
            height,
            width,
        ])?;
        Ok(EncoderInputs::Images(pixels.f_to_device(device)?))
    }
}

/// The image processor of a model: as its folder says, otherwise with the usual settings.
pub(crate) fn image_processor(model: &Path, input: &ImageConfig) -> Result<ImageProcessor> {
    let file = model.join("preprocessor_config.json");
    let size = input.size.map(|side| side as u32);
    Ok(ImageProcessor::new(file.exists().then_some(file.as_path()), input.channels as usize, size)?)
}

/// The tokens of an image.
pub(crate) fn image_tokens(input: &ImageConfig) -> i64 {
    let [down, across] = input.grid();
    down * across + i64::from(input.class_token)
}
