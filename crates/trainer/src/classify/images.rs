//! Images with classes.

use super::check::other_input;
use super::rows::{Read, Samples};
use crate::Result;
use config::Run;
use data::images::{Augmentation, ImageKeys, ImageProcessor, LabelledImages};
use models::{Checkpoint, EncoderInputs, ImageConfig, InputConfig};
use std::sync::Arc;
use tch::{Device, Tensor};

/// Images, decoded and brought to size when they are asked for.
pub(super) struct Images {
    images: LabelledImages,
    processor: Arc<ImageProcessor>,
    augmentation: Augmentation,
    /// Channels, height and width.
    shape: [i64; 3],
    tokens: usize,
}

impl Images {
    /// Opens the training data and what is held out elsewhere; of the classes `labels` where they are known.
    pub fn read(run: &Run, checkpoint: &Checkpoint, labels: Option<&[String]>) -> Result<Read> {
        let config = checkpoint.encoder_config()?;
        let InputConfig::Image(input) = &config.input else { return Err(other_input(run, config)) };
        let keys = ImageKeys { image: run.data.image_key.clone(), label: run.data.label_key.clone() };
        let train = LabelledImages::open(run.data.train.first(), &keys, labels)?;
        let eval = run.data.eval.as_ref().map(|eval| LabelledImages::open(eval.first(), &keys, Some(train.labels()))).transpose()?;
        let labels = train.labels().to_vec();
        let fingerprint = format!("{} {:?}", train.fingerprint(), eval.as_ref().map(LabelledImages::fingerprint));
        let processor = Arc::new(processor(run, input)?);
        let samples = |images| {
            Arc::new(Self {
                images,
                processor: processor.clone(),
                augmentation: Augmentation { flip: run.data.flip, crop: run.data.crop },
                shape: [input.channels, input.size[0], input.size[1]],
                tokens: tokens(input) as usize,
            }) as Arc<dyn Samples>
        };
        Ok(Read { labels, train: samples(train), eval: eval.map(samples), fingerprint })
    }
}

impl Samples for Images {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn class(&self, index: usize) -> u32 {
        self.images.class(index)
    }

    fn tokens(&self, _index: usize) -> usize {
        self.tokens
    }

    fn inputs(&self, indices: &[usize], drawn: Option<u64>, device: Device) -> Result<EncoderInputs> {
        let numbers = self.processor.batch(&self.images, indices, drawn.map(|seed| (self.augmentation, seed)))?;
        let [channels, height, width] = self.shape;
        let pixels = Tensor::f_from_slice(&numbers)?.f_view([indices.len() as i64, channels, height, width])?;
        Ok(EncoderInputs::Images(pixels.f_to_device(device)?))
    }
}

/// What the model's folder says is done to images, or what is usual.
pub(super) fn processor(run: &Run, input: &ImageConfig) -> Result<ImageProcessor> {
    let file = run.model.path.join("preprocessor_config.json");
    let size = input.size.map(|side| side as u32);
    Ok(ImageProcessor::new(file.exists().then_some(file.as_path()), input.channels as usize, size)?)
}

/// Tokens that an image becomes.
pub(super) fn tokens(input: &ImageConfig) -> i64 {
    let [down, across] = input.grid();
    down * across + i64::from(input.class_token)
}
