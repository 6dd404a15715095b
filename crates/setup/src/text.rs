use std::path::Path;

use config::Model;
use data::{BpeParts, ChatTemplate, Tokenizer};
use models::{ChatTemplates, Checkpoint, GgufTokenizer, TokenizerSource};

use crate::{Error, Result};

/// The tokenizer and the chat template of a model.
#[derive(Debug)]
pub struct TextProcessor {
    /// Absent where the model comes without one.
    pub tokenizer: Option<Tokenizer>,
    /// Absent in a base model.
    pub template: Option<ChatTemplate>,
}

impl TextProcessor {
    /// The files that `[model]` names, otherwise those of the model.
    ///
    /// # Errors
    /// A file that cannot be read, or is no tokenizer or template.
    pub fn open(model: &Model, checkpoint: &Checkpoint) -> Result<Self> {
        let templates = match &model.chat_template {
            Some(path) => ChatTemplates {
                default: Some(files::read_text(path).map_err(Error::io(path, "read"))?),
                tool_use: None,
            },
            None => checkpoint.chat_templates().clone(),
        };
        Self::new(model.tokenizer.as_deref(), &templates, checkpoint)
    }

    /// The tokenizer at `tokenizer`, otherwise the model's; and the templates, parsed.
    ///
    /// # Errors
    /// A file that cannot be read, or is no tokenizer; a template that does not parse.
    pub fn new(
        tokenizer: Option<&Path>,
        templates: &ChatTemplates,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let tokenizer = match (tokenizer, checkpoint.tokenizer()) {
            (Some(path), TokenizerSource::Folder(folder)) => {
                Some(Tokenizer::from_file(path)?.with_model_dir(folder)?)
            }
            (Some(path), TokenizerSource::Gguf(parts)) => {
                Some(Tokenizer::from_file(path)?.with_model_ids(parts.bos, parts.eos.as_slice()))
            }
            (Some(path), TokenizerSource::None) => Some(Tokenizer::from_file(path)?),
            (None, TokenizerSource::Folder(folder)) => Tokenizer::from_model_dir(folder)?,
            (None, TokenizerSource::Gguf(parts)) => {
                Some(Tokenizer::from_bpe(bpe(parts, checkpoint.path())?)?)
            }
            (None, TokenizerSource::None) => None,
        };
        let special = tokenizer
            .as_ref()
            .map(|tokenizer| tokenizer.special_tokens().clone())
            .unwrap_or_default();
        let parse = |source: &Option<String>| {
            source
                .as_deref()
                .map(|source| ChatTemplate::with_special_tokens(source, &special))
                .transpose()
        };
        let template = match (parse(&templates.default)?, parse(&templates.tool_use)?) {
            (Some(default), Some(tool_use)) => Some(default.with_tool_use(tool_use)),
            (default, tool_use) => default.or(tool_use),
        };
        Ok(Self { tokenizer, template })
    }

    /// The id that pads batches; 0 without a tokenizer.
    pub fn pad_token_id(&self) -> u32 {
        self.tokenizer.as_ref().map_or(0, Tokenizer::pad_token_id)
    }

    /// A warning for the user if no token ends a text, so that the model does not learn to stop.
    pub fn eos_warning(&self) -> Option<&'static str> {
        let warning = "no token ends a text: neither the tokenizer's files nor the model's configuration name one, so texts and completions will \
                       end with nothing, and the model does not learn to stop; name it as eos_token in tokenizer_config.json, or as \
                       eos_token_id in config.json";
        self.tokenizer.as_ref()?.eos_token_id().is_none().then_some(warning)
    }
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
