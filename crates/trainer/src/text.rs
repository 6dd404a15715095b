use crate::{Error, Result};
use config::Run;
use data::{BpeParts, ChatTemplate, Tokenizer};
use models::{ChatTemplates, Checkpoint, GgufTokenizer, TokenizerSource};
use std::path::Path;

/// How a model reads and writes text.
pub(crate) struct Text {
    /// Absent where the model comes without one.
    pub tokenizer: Option<Tokenizer>,
    /// Absent in a base model.
    pub template: Option<ChatTemplate>,
}

/// The tokenizer and the chat template of a run: its own files, else those that came with the model.
pub(crate) fn open(run: &Run, checkpoint: &Checkpoint) -> Result<Text> {
    let templates = match &run.model.chat_template {
        Some(path) => ChatTemplates { default: Some(std::fs::read_to_string(path).map_err(Error::io(path, "read"))?), tool_use: None },
        None => checkpoint.chat_templates().clone(),
    };
    of(run.model.tokenizer.as_deref(), &templates, checkpoint)
}

/// The tokenizer at `tokenizer`, else the model's; and templates from their sources.
pub(crate) fn of(tokenizer: Option<&Path>, templates: &ChatTemplates, checkpoint: &Checkpoint) -> Result<Text> {
    let tokenizer = match (tokenizer, checkpoint.tokenizer()) {
        (Some(path), TokenizerSource::Folder(folder)) => Some(Tokenizer::from_file(path)?.with_model_dir(folder)?),
        (Some(path), TokenizerSource::Gguf(parts)) => Some(Tokenizer::from_file(path)?.with_model_ids(parts.bos, parts.eos.as_slice())),
        (Some(path), TokenizerSource::None) => Some(Tokenizer::from_file(path)?),
        (None, TokenizerSource::Folder(folder)) => Tokenizer::from_model_dir(folder)?,
        (None, TokenizerSource::Gguf(parts)) => Some(Tokenizer::from_bpe(bpe(parts, checkpoint.path())?)?),
        (None, TokenizerSource::None) => None,
    };
    let special = tokenizer.as_ref().map(|tokenizer| tokenizer.special_tokens().clone()).unwrap_or_default();
    let parse = |source: &Option<String>| source.as_deref().map(|source| ChatTemplate::with_special_tokens(source, &special)).transpose();
    let template = match (parse(&templates.default)?, parse(&templates.tool_use)?) {
        (Some(default), Some(tool_use)) => Some(default.with_tool_use(tool_use)),
        (default, tool_use) => default.or(tool_use),
    };
    Ok(Text { tokenizer, template })
}

/// GGUF's types of tokens that text never spells: unknown, control.
const SPECIAL_TYPES: [i32; 2] = [2, 3];

fn bpe(parts: &GgufTokenizer, file: &Path) -> Result<BpeParts> {
    if parts.model != "gpt2" {
        let message = format!(
            "{}: its tokenizer is of the kind {:?}, and only byte-level BPE (\"gpt2\") is read from GGUF; give the model's tokenizer.json as [model] tokenizer",
            file.display(),
            parts.model
        );
        return Err(Error::Input(message));
    }
    Ok(BpeParts {
        tokens: parts.tokens.clone(),
        merges: parts.merges.clone(),
        pre: parts.pre.clone().unwrap_or_else(|| "default".into()),
        special: parts.token_types.iter().map(|kind| SPECIAL_TYPES.contains(kind)).collect(),
        bos: parts.bos,
        eos: parts.eos,
        unk: parts.unk,
        pad: parts.pad,
        add_bos: parts.add_bos,
    })
}

/// What is to be said before texts are trained that nothing will end.
pub(crate) fn without_end(tokenizer: &Tokenizer) -> Option<&'static str> {
    let end = "no token ends a text: neither the tokenizer's files nor the model's configuration name one, so texts and completions will end with nothing, \
               and the model does not learn to stop; name it as eos_token in tokenizer_config.json, or as eos_token_id in config.json";
    tokenizer.eos_token_id().is_none().then_some(end)
}
