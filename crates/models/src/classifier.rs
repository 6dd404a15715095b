mod head;
mod losses;

pub use losses::Losses;

use tch::{Device, Kind, Tensor};

use autograd::Parameter;
use layers::Scope;

use crate::config::{EncoderConfig, Labels, Problem};
use crate::encoder::{Encoder, EncoderInputs};
use crate::tensors::{Drawn, Tensors};
use crate::{Activations, Checkpoint, Linear, Model, Quantization, Result};
use head::Head;

/// An encoder with a head that says to which classes a row belongs (the
/// `…ForSequenceClassification` and `…ForImageClassification` classes of transformers).
#[derive(Debug)]
pub struct Classifier {
    encoder: Encoder,
    head: Head,
    drawn: Vec<String>,
}

impl Classifier {
    /// The names and shapes of the tensors of a model of this configuration.
    pub fn tensor_shapes(config: &EncoderConfig) -> Vec<(String, Vec<i64>)> {
        let tensors = Tensors::list();
        let _ = Self::new(&tensors, config);
        tensors.into_list()
    }

    /// Reads the weights as `kind` onto `device`, all of them frozen. With `labels`, for these
    /// classes instead of those that the configuration names. Parts of the head that the checkpoint
    /// does not hold in the shape they need are drawn from `seed`, as [`Classifier::drawn`] tells;
    /// all is where it [is untrained](Checkpoint::is_untrained).
    ///
    /// # Errors
    /// Those of [`Checkpoint::encoder_config`], [`Checkpoint::check`] and [`Checkpoint::tensor`].
    pub fn load(
        checkpoint: &Checkpoint,
        labels: Option<Labels>,
        seed: u64,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let mut config = checkpoint.encoder_config()?.clone();
        config.labels = labels.unwrap_or(config.labels);
        let body =
            if checkpoint.is_untrained() { 0 } else { Encoder::tensor_shapes(&config).len() };
        let mut expected = Self::tensor_shapes(&config);
        let head = expected.split_off(body);
        let (held, drawn): (Vec<_>, Vec<_>) =
            head.into_iter().partition(|(name, shape)| checkpoint.holds(name, shape));
        expected.extend(held);
        checkpoint.check(&expected)?;
        let begin = Drawn { seed, deviation: config.initializer_range };
        let tensors = Tensors::Read {
            drawn: Some(begin),
            checkpoint,
            kind,
            device,
            quantization: Quantization::None,
        };
        let model = Self::new(&tensors, &config)?;
        Ok(Self { drawn: drawn.into_iter().map(|(name, _)| name).collect(), ..model })
    }

    fn new(tensors: &Tensors<'_>, config: &EncoderConfig) -> Result<Self> {
        Ok(Self {
            encoder: Encoder::new(tensors, config)?,
            head: Head::new(tensors, config)?,
            drawn: Vec::new(),
        })
    }

    /// Whether a checkpoint holds a head for the classes that its configuration names.
    pub fn is_whole(checkpoint: &Checkpoint) -> bool {
        let Ok(config) = checkpoint.encoder_config() else { return false };
        Self::tensor_shapes(config).iter().all(|(name, shape)| checkpoint.holds(name, shape))
    }

    /// The paths of the linear layers, as adapters name them.
    pub fn linear_paths(config: &EncoderConfig) -> Vec<String> {
        let listed = Self::new(&Tensors::list(), config);
        listed.iter().flat_map(Self::linears).map(|linear| linear.path().to_owned()).collect()
    }

    /// The architecture.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// The classes.
    pub fn labels(&self) -> &Labels {
        &self.config().labels
    }

    /// The weights that the checkpoint did not hold: what the model knows nothing of before it is
    /// trained.
    pub fn drawn(&self) -> &[String] {
        &self.drawn
    }

    /// The logits `[batch, classes]`, in f32 or better.
    ///
    /// # Errors
    /// Those of [`Encoder::forward`].
    pub fn logits(
        &self,
        inputs: &EncoderInputs,
        activations: &Activations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let hidden = self.encoder.forward(inputs, activations, scope)?;
        let pooled = self.encoder.pooled(
            self.config().classifier.pooling,
            inputs,
            &hidden,
            activations,
            scope,
        )?;
        let logits = self.head.forward(&pooled, &scope.at(self.config().num_layers() as u64))?;
        Ok(if logits.kind() == Kind::Double { logits } else { logits.f_to_kind(Kind::Float)? })
    }

    /// The losses of `logits` at `labels`, by what the configuration says is learned, or else by
    /// the labels themselves, as transformers does: see [`Losses::new`].
    ///
    /// # Errors
    /// Those of [`Losses::new`].
    pub fn losses(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        class_weights: Option<&Tensor>,
    ) -> layers::Result<Losses> {
        let are_integers =
            !matches!(labels.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        let problem = self
            .config()
            .problem
            .unwrap_or_else(|| Problem::infer(self.labels().len(), are_integers));
        Losses::new(problem, logits, labels, class_weights)
    }
}

impl Model for Classifier {
    fn parameters(&self) -> Vec<&Parameter> {
        self.encoder
            .parameters()
            .into_iter()
            .chain(self.head.linears().flat_map(Linear::parameters))
            .collect()
    }

    fn sparse_grad_embeddings(&self) -> Vec<&Parameter> {
        self.encoder.sparse_grad_embeddings()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.encoder.linears().into_iter().chain(self.head.linears()).collect()
    }

    fn linears_mut(&mut self) -> Option<Vec<&mut Linear>> {
        Some(self.encoder.linears_mut()?.into_iter().chain(self.head.linears_mut()).collect())
    }
}
