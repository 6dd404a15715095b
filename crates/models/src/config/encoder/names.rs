/// The names of a family's tensors, without `.weight` and `.bias` where they have both. Those of a
/// layer follow its prefix.
#[derive(Debug, PartialEq)]
pub(crate) struct EncoderNames {
    /// What stands before all names but those of the classifier.
    pub prefix: &'static str,
    /// What stands before the number of a stage, where there are several.
    pub stages: Option<&'static str>,
    /// What stands before the number of a layer.
    pub layers: &'static str,
    /// The embedding of tokens, or the map of patches.
    pub embedding: &'static str,
    /// The embedding of positions: its whole name.
    pub positions: &'static str,
    /// The embedding of token types.
    pub token_types: &'static str,
    /// The token that stands for an image: its whole name.
    pub class_token: &'static str,
    /// The norm after the embeddings, in families that have one.
    pub embedding_norm: Option<&'static str>,
    /// The norms of the attention sublayer, and of the MLP's.
    pub norms: [&'static str; 2],
    /// The maps of queries, keys and values.
    pub queries: [&'static str; 3],
    /// The map out of attention.
    pub output: &'static str,
    /// What relative positions add to scores.
    pub relative: &'static str,
    /// up and down.
    pub mlp: [&'static str; 2],
    /// What merges patches after a stage, following the stage's prefix.
    pub merge: Option<MergeNames>,
    /// The norm after the last layer, in families that have one.
    pub final_norm: Option<&'static str>,
    /// The first map of the classifier, in families that have one.
    pub head_dense: Option<&'static str>,
    /// Its last.
    pub head_out: &'static str,
    /// Parts of names of tensors that are known and not needed.
    pub ignored: &'static [&'static str],
}

/// The tensors of what merges patches.
#[derive(Debug, PartialEq)]
pub(crate) struct MergeNames {
    pub norm: &'static str,
    pub reduction: &'static str,
}

impl EncoderNames {
    /// What stands before the names of a stage's own tensors.
    pub fn stage(&self, stage: usize) -> String {
        self.stages.map(|stages| format!("{stages}{stage}.")).unwrap_or_default()
    }

    /// What stands before the names of a layer.
    pub fn layer(&self, stage: usize, index: usize) -> String {
        format!("{}{}{index}.", self.stage(stage), self.layers)
    }

    /// The name of a tensor that every checkpoint holds.
    pub fn known(&self) -> String {
        format!("{}.weight", self.embedding)
    }
}
