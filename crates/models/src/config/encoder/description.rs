//! What an encoder's configuration says: the parts it may be made of. Families differ in these
//! values, not in code.

use layers::Activation;

use super::labels::{Labels, Problem};
use super::names::EncoderNames;
use crate::config::description::NormKind;

/// What an encoder is: sizes, constants, and which of the known parts it is made of. Once read it
/// is consistent.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Hugging Face's name of the architecture.
    pub model_type: String,
    /// What becomes hidden states.
    pub input: InputConfig,
    /// Layers of one width each, one stage after the other; between two of them, neighbouring
    /// patches are merged.
    pub stages: Vec<StageConfig>,
    /// Where norms stand.
    pub order: NormOrder,
    /// The epsilon of the norms in layers, and of the one after the last.
    pub norm_eps: f64,
    /// The activation function of MLPs.
    pub activation: Activation,
    /// How tokens attend to each other.
    pub attention: EncoderAttention,
    /// What is dropped in training.
    pub dropout: EncoderDropout,
    /// How hidden states become logits.
    pub classifier: ClassifierConfig,
    /// The classes.
    pub labels: Labels,
    /// What is learned of them, if the file says so.
    pub problem: Option<Problem>,
    /// The deviation that the weights of a new classifier are drawn with.
    pub initializer_range: f64,
    /// What the tensors are called.
    pub(crate) names: &'static EncoderNames,
}

/// What becomes hidden states.
#[derive(Debug, Clone, PartialEq)]
pub enum InputConfig {
    /// Token ids.
    Text(TextConfig),
    /// Pixels.
    Image(ImageConfig),
}

/// How tokens become hidden states: the sum of embeddings, normed.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Rows of the embedding of positions.
    pub max_positions: i64,
    /// Rows of the embedding of token types.
    pub token_types: i64,
    /// The token that fills up a batch; its embedding gets no gradient.
    pub padding: Option<i64>,
    /// What a token's position is.
    pub positions: Positions,
}

impl TextConfig {
    /// The longest sequence, in tokens.
    pub fn max_tokens(&self) -> i64 {
        match self.positions {
            Positions::BehindPadding => self.max_positions - self.padding.unwrap_or(0) - 1,
            Positions::Counted | Positions::Relative => self.max_positions,
        }
    }
}

/// What a token's position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// 0, 1, 2, …
    Counted,
    /// Counted from the padding token's id + 1 over the tokens that are no padding; padding has
    /// that id itself (RoBERTa).
    BehindPadding,
    /// None: attention sees distances.
    Relative,
}

/// How images become hidden states: one for each patch.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    /// Height and width, in pixels.
    pub size: [i64; 2],
    /// Height and width of a patch.
    pub patch: [i64; 2],
    /// Colours.
    pub channels: i64,
    /// Whether a token that stands for the whole image comes first.
    pub class_token: bool,
    /// Whether each place has an embedding.
    pub positions: bool,
    /// Whether images of other sizes are taken, and padded to whole patches; otherwise the size is
    /// as above, and what is no whole patch is cut off.
    pub any_size: bool,
}

impl ImageConfig {
    /// Patches of an image of the model's size, down and across.
    pub fn grid(&self) -> [i64; 2] {
        let whole = |side: i64, patch: i64| {
            if self.any_size { (side + patch - 1) / patch } else { side / patch }
        };
        [whole(self.size[0], self.patch[0]), whole(self.size[1], self.patch[1])]
    }
}

/// Layers of one width.
#[derive(Debug, Clone, PartialEq)]
pub struct StageConfig {
    /// Width of the residual stream.
    pub width: i64,
    /// Number of heads; divides the width.
    pub heads: i64,
    /// Width inside the MLP.
    pub inner: i64,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
}

impl StageConfig {
    /// `depth` layers that are all alike.
    pub(super) fn alike(width: i64, heads: i64, inner: i64, depth: i64) -> Self {
        Self {
            width,
            heads,
            inner,
            layers: vec![EncoderLayer { shift: 0, drop_path: 0.0 }; depth.max(0) as usize],
        }
    }
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderLayer {
    /// By how many tokens windows are shifted.
    pub shift: i64,
    /// The probability with which the attention sublayer of a whole sample is dropped, in training.
    pub drop_path: f64,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// Before each sublayer.
    PreNorm,
    /// Behind each sum, on the residual stream itself.
    PostNorm,
}

/// How tokens attend to each other, in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderAttention {
    /// Whether the maps of queries, keys and values have biases.
    pub bias: bool,
    /// The chance that the weight of a key is dropped, in training.
    pub dropout: f64,
    /// Positions that attention sees.
    pub relative: RelativePositions,
}

/// Positions that attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelativePositions {
    /// None.
    None,
    /// An embedding of each distance below `longest` tokens (`relative_key` of BERT), which meets
    /// the keys too (`relative_key_query`) or not.
    Distances {
        /// One more than the longest distance.
        longest: i64,
        /// Whether it meets the keys too.
        of_keys: bool,
    },
    /// A bias for each pair of places in a window of `size` by `size` tokens, within which tokens
    /// attend.
    Windows {
        /// Tokens on each side.
        size: i64,
    },
}

/// What is dropped in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderDropout {
    /// Elements of the embeddings.
    pub embedding: f64,
    /// Elements of the attention sublayer's output, and of the MLP's.
    pub sublayers: [f64; 2],
}

/// How hidden states become logits: one vector for each row, dropout, perhaps a map and `tanh`,
/// dropout, and the map to classes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierConfig {
    /// What stands for a row.
    pub pooling: Pooling,
    /// The chance that an element is dropped before the first map.
    pub dropout_before: f64,
    /// The chance that an element is dropped before the last.
    pub dropout: f64,
}

/// What stands for a row of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first token.
    First,
    /// The mean of all.
    Mean,
}

impl EncoderConfig {
    /// Layers of all stages.
    pub fn num_layers(&self) -> usize {
        self.stages.iter().map(|stage| stage.layers.len()).sum()
    }

    /// The stage of a layer.
    pub fn stage_of(&self, layer: usize) -> &StageConfig {
        let mut before = 0;
        let found = self.stages.iter().find(|stage| {
            before += stage.layers.len();
            layer < before
        });
        found.unwrap_or_else(|| self.last())
    }

    /// Width of the hidden states after the last layer.
    pub fn width(&self) -> i64 {
        self.last().width
    }

    fn last(&self) -> &StageConfig {
        // Every family reads at least one.
        &self.stages[self.stages.len() - 1]
    }

    /// The kind and the epsilon of the norms.
    pub(crate) fn norms(&self) -> (NormKind, f64) {
        (LAYER_NORM, self.norm_eps)
    }
}

/// The kind of all norms.
pub(crate) const LAYER_NORM: NormKind = NormKind::Layer { weight: true, bias: true };
