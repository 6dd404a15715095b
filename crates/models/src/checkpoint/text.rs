use super::templates::ChatTemplates;
use super::tokenizer::TokenizerSource;

/// What a checkpoint says about text.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub tokenizer: TokenizerSource,
    pub templates: ChatTemplates,
}
