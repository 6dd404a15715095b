//! Text to token ids and back.

mod bpe;
mod pre;
mod stream;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::Tokenizer as Inner;

pub use bpe::BpeParts;
pub use stream::StreamDecoder;
use words::Words;

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Token ids, each with the bytes of the text it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// First byte and the byte after the last, `[tokens]`. The tokens of a character that was split all carry the
    /// whole character; a token that was added (bos) carries `(0, 0)`.
    pub offsets: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
}

/// Tokens that end a turn or a text in the model families in use.
const STOP_TOKENS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "</s>", "<eos>"];

/// A model's tokenizer: Hugging Face's `tokenizers` behind the few questions that training and generation ask.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Inner,
    /// The fast way, for a tokenizer that allows it.
    words: Option<Arc<Words>>,
    ids: SpecialIds,
    special: BTreeSet<u32>,
    fingerprint: String,
    name: String,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. The bos, eos and pad tokens, which that file does not name, come from the
    /// `tokenizer_config.json` beside it, where there is one.
    ///
    /// # Errors
    /// If a file cannot be read, or is not of that format.
    pub fn from_file(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = crate::file::read(path)?;
        let mut inner = Inner::from_bytes(&bytes).map_err(|error| Error::Tokenizer {
            name: name.clone(),
            problem: format!("it does not parse ({error})"),
            remedy: "give the tokenizer.json that came with the model".into(),
        })?;
        // Length and padding are this crate's business; a file may bring settings of its own.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::Tokenizer {
            name: name.clone(),
            problem: error.to_string(),
            remedy: "remove `truncation` from the file".into(),
        })?;

        let mut fingerprint = Fingerprint::new("tokenizer.json");
        fingerprint.add(&bytes);
        let config_path = path.with_file_name("tokenizer_config.json");
        let mut config = Value::Null;
        if config_path.is_file() {
            let bytes = std::fs::read(&config_path).map_err(Error::io("open", &config_path))?;
            config = serde_json::from_slice(&bytes)
                .map_err(|error| Error::file(&config_path, format!("broken JSON ({error})"), "give the file that came with the model"))?;
        }
        let id = |key: &str| {
            let token = &config[key];
            token.as_str().or_else(|| token["content"].as_str()).and_then(|token| inner.token_to_id(token))
        };
        let ids = SpecialIds { bos: id("bos_token"), eos: id("eos_token"), pad: id("pad_token") };
        fingerprint.add(format!("{ids:?}"));
        Ok(Self::new(inner, ids, fingerprint.finish(), name))
    }

    /// Builds the byte-level BPE of a GGUF file.
    ///
    /// # Errors
    /// If the parts contradict each other, or the pre-tokenizer is not one of the supported.
    pub fn from_bpe(parts: BpeParts) -> Result<Self> {
        parts.build()
    }

    /// Writes it as a `tokenizer.json`, which does not name the bos, eos and pad tokens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let refused = |error: tokenizers::Error| Error::Tokenizer {
            name: self.name.clone(),
            problem: format!("cannot be written to {} ({error})", path.display()),
            remedy: "look whether there is room".into(),
        };
        self.inner.save(path, true).map(|_| ()).map_err(refused)
    }

    fn new(inner: Inner, ids: SpecialIds, fingerprint: String, name: String) -> Self {
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let words = Words::of(&inner).map(Arc::new);
        Self { inner, words, ids, special, fingerprint, name }
    }

    /// Token ids of `text`. `add_special` adds what the tokenizer puts around a text (bos); leave it out for text that
    /// a chat template has rendered, which brings its own.
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        self.ids_up_to(text, add_special, usize::MAX)
    }

    /// Token ids of `text`, each with its place in it.
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text.
    pub fn encode_with_offsets(&self, text: &str, add_special: bool) -> Result<Encoded> {
        self.encode_up_to(text, add_special, usize::MAX)
    }

    /// The same, of which only the first `limit` tokens are wanted: a long text need not be tokenised to its end. There may be more.
    pub(crate) fn encode_up_to(&self, text: &str, add_special: bool, limit: usize) -> Result<Encoded> {
        let encoded = match &self.words {
            Some(words) => words.encode(&self.inner, text, add_special, limit),
            None => self.encode_whole(text, add_special),
        };
        encoded.map_err(|error| self.cannot_encode(error))
    }

    /// The ids alone, of which only the first `limit` are wanted. There may be more.
    pub(crate) fn ids_up_to(&self, text: &str, add_special: bool, limit: usize) -> Result<Vec<u32>> {
        let ids = match &self.words {
            Some(words) => words.ids(&self.inner, text, add_special, limit),
            None => self.encode_whole(text, add_special).map(|encoded| encoded.ids),
        };
        ids.map_err(|error| self.cannot_encode(error))
    }

    fn encode_whole(&self, text: &str, add_special: bool) -> tokenizers::Result<Encoded> {
        let encoding = self.inner.encode(text, add_special)?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|error| self.cannot_decode(error))
    }

    /// A decoder for tokens that come one at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// The id of a token, special or not.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of an id as the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// How many tokens there are, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that begins a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The token that ends a text, or for a chat model a turn.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.ids.eos
    }

    /// The token to fill rows with; the eos token or 0 where there is none, which changes nothing: padding is neither
    /// a target nor seen by the tokens before it.
    pub fn pad_token_id(&self) -> u32 {
        self.ids.pad.or(self.ids.eos).unwrap_or(0)
    }

    /// Tokens at which generation ends: the eos token, and those special tokens that end a turn or a text in the model
    /// families in use (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`, …). Sorted.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        let known = STOP_TOKENS.iter().filter_map(|token| self.token_to_id(token)).filter(|&id| self.is_special(id));
        let ids: BTreeSet<u32> = known.chain(self.ids.eos).collect();
        ids.into_iter().collect()
    }

    /// Whether an id is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// A hash of everything that decides how this tokenizer cuts a text.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn cannot_encode(&self, error: tokenizers::Error) -> Error {
        Error::Tokenizer {
            name: self.name.clone(),
            problem: format!("cannot encode a text ({error})"),
            remedy: "check that the tokenizer belongs to the model".into(),
        }
    }

    fn cannot_decode(&self, error: tokenizers::Error) -> Error {
        Error::Tokenizer {
            name: self.name.clone(),
            problem: format!("cannot decode tokens ({error})"),
            remedy: "check that the tokenizer belongs to the model".into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
