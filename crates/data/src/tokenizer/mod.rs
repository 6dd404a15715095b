//! Text to token ids and back.

mod bpe;
mod class;
mod continuation;
mod file;
mod open;
mod parts;
mod pre;
mod sentencepiece;
mod special;
mod stream;
mod tiktoken;
mod words;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tokenizers::Tokenizer as Inner;

pub use bpe::BpeParts;
use continuation::Continuation;
pub use special::SpecialTokens;
pub use stream::StreamDecoder;
use words::{Begins, Words};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Token ids, each with the bytes of the text it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// First byte and the byte after the last, `[tokens]`. The tokens of a character that was split
    /// all carry the whole character; a token that was added (bos) carries `(0, 0)`.
    pub offsets: Vec<(usize, usize)>,
}

impl Encoded {
    /// Gives bytes that a normalizer took away, as the accent that it joined with a letter, to the
    /// token before them.
    fn close_gaps(&mut self, text: &str) {
        let mut next = text.len();
        for (start, end) in self.offsets.iter_mut().rev().filter(|(start, end)| start < end) {
            *end = next.max(*end);
            next = *start;
        }
    }
}

/// Tokens that end a turn or a text in the model families in use.
const STOP_TOKENS: [&str; 11] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
    "<eos>",
    "<|return|>",
    "<|call|>",
    "<|eom_id|>",
];

/// A model's tokenizer: Hugging Face's `tokenizers` behind the few questions that training and
/// generation ask.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Inner,
    /// The fast way, for a tokenizer that allows it.
    words: Option<Arc<Words>>,
    /// How a text is cut that continues another, where that is different.
    continuation: Option<Continuation>,
    named: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    /// Tokens at which the model's configuration ends generation.
    stops: BTreeSet<u32>,
    added: BTreeSet<u32>,
    special: BTreeSet<u32>,
    fingerprint: String,
    name: String,
}

impl Tokenizer {
    /// Opens the tokenizer in a model's directory as `AutoTokenizer.from_pretrained` of
    /// transformers 4.57.6 does; `None` where there is none.
    ///
    /// The special tokens come from `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`, else from the tokenizer's class; and where none of these names an end
    /// of text, from `eos_token_id` of `generation_config.json` or `config.json`.
    ///
    /// # Errors
    /// If a file cannot be read, is not of its format, or is of a kind that is not read.
    pub fn from_model_dir(folder: &Path) -> Result<Option<Self>> {
        open::open_folder(folder)
    }

    /// Opens a `tokenizer.json` with the files next to it, as [`Tokenizer::from_model_dir`] does;
    /// or a directory that has one.
    ///
    /// # Errors
    /// If a file cannot be read, or is not of that format.
    pub fn from_file(path: &Path) -> Result<Self> {
        open::open_file(path)
    }

    /// Takes from a model what the tokenizer's own files leave open: the token that ends a text
    /// and, where they name no special token at all, the one that begins it. All of `eos` end
    /// generation. An id that is no added token here belongs to another vocabulary, and is passed
    /// over.
    #[must_use]
    pub fn with_model_ids(mut self, bos: Option<u32>, eos: &[u32]) -> Self {
        let known = |id: &u32| self.added.contains(id);
        let (bos, eos): (Option<u32>, Vec<u32>) =
            (bos.filter(known), eos.iter().copied().filter(known).collect());
        self.complete(bos, &eos);
        self
    }

    /// The same from the `generation_config.json` and the `config.json` of a model's directory.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn with_model_dir(self, folder: &Path) -> Result<Self> {
        let (bos, eos) = open::ids_of_folder(folder)?;
        Ok(self.with_model_ids(bos, &eos))
    }

    fn complete(&mut self, bos: Option<u32>, eos: &[u32]) {
        let is_known = |id: &u32| self.inner.id_to_token(*id).is_some();
        let eos: Vec<u32> = eos.iter().copied().filter(is_known).collect();
        let bos = bos.filter(is_known).filter(|_| self.named == SpecialTokens::default());
        let first = eos.first().copied().filter(|_| self.eos.is_none());
        self.stops.extend(eos);
        if first.is_none() && bos.is_none() {
            return;
        }
        let mut fingerprint = Fingerprint::new(&self.fingerprint);
        fingerprint.add(format!("{bos:?} {first:?}"));
        self.fingerprint = fingerprint.finish();
        if let Some(id) = first {
            (self.eos, self.named.eos) = (Some(id), self.inner.id_to_token(id));
        }
        if let Some(id) = bos {
            (self.bos, self.named.bos) = (Some(id), self.inner.id_to_token(id));
        }
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

    fn new(inner: Inner, named: SpecialTokens, fingerprint: String, name: String) -> Self {
        let decoder = inner.get_added_tokens_decoder();
        let added = decoder.keys().copied().collect();
        let special =
            decoder.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let words = Words::new(&inner).map(Arc::new);
        let id = |text: &Option<String>| inner.token_to_id(text.as_deref()?);
        let (bos, eos, pad) = (id(&named.bos), id(&named.eos), id(&named.pad));
        let continuation = Continuation::new(&inner);
        Self {
            inner,
            words,
            continuation,
            named,
            bos,
            eos,
            pad,
            stops: BTreeSet::new(),
            added,
            special,
            fingerprint,
            name,
        }
    }

    /// Token ids of `text`. `add_special` adds what the tokenizer puts around a text (bos); leave
    /// it out for text that a chat template has rendered, which brings its own.
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

    /// The same, of which only the first `limit` tokens are wanted: a long text need not be
    /// tokenised to its end. There may be more.
    pub(crate) fn encode_up_to(
        &self,
        text: &str,
        add_special: bool,
        limit: usize,
    ) -> Result<Encoded> {
        let encoded = match &self.words {
            Some(words) if words.takes(text) => {
                words.encode(&self.inner, text, begins(add_special), limit)
            }
            // A text in one piece: what follows may change how its beginning is normalized or cut.
            _ => self.encode_whole(text, add_special),
        };
        encoded.map_err(|error| self.cannot_encode(error))
    }

    /// The ids alone, of which only the first `limit` are wanted. There may be more.
    pub(crate) fn ids_up_to(
        &self,
        text: &str,
        add_special: bool,
        limit: usize,
    ) -> Result<Vec<u32>> {
        let ids = match &self.words {
            Some(words) if words.takes(text) => {
                words.ids(&self.inner, text, begins(add_special), limit)
            }
            _ => self.encode_whole(text, add_special).map(|encoded| encoded.ids),
        };
        ids.map_err(|error| self.cannot_encode(error))
    }

    /// Token ids of a text that continues another one: without what stands around a text, and
    /// without the space that a tokenizer of SentencePiece's kind puts before it, so that prompt
    /// and continuation decode to one text. If there are more than `limit`, more than these need
    /// not be there.
    ///
    /// A continuation of nothing is a text: use [`Tokenizer::encode`].
    ///
    /// # Errors
    /// If the tokenizer has no token for a part of the text.
    pub fn encode_continuation(&self, text: &str, limit: usize) -> Result<Vec<u32>> {
        let ids = match (&self.continuation, &self.words) {
            (None, _) => return self.ids_up_to(text, false, limit),
            (Some(_), Some(words)) if words.takes(text) => {
                words.ids(&self.inner, text, Begins::Continuing, limit)
            }
            (Some(continuation), _) => continuation.encode(&self.inner, text),
        };
        ids.map_err(|error| self.cannot_encode(error))
    }

    fn encode_whole(&self, text: &str, add_special: bool) -> tokenizers::Result<Encoded> {
        let encoding = self.inner.encode(text, add_special)?;
        let mut encoded =
            Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() };
        encoded.close_gaps(text);
        Ok(encoded)
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

    /// The tokens that begin and end a text, as text.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.named
    }

    /// The token that begins a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, or for a chat model a turn. `None` where no file names one: what
    /// is trained then ends with nothing.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos
    }

    /// The token to fill rows with; the eos token or 0 where there is none, which changes nothing:
    /// padding is neither a target nor seen by the tokens before it.
    pub fn pad_token_id(&self) -> u32 {
        self.pad.or(self.eos).unwrap_or(0)
    }

    /// Tokens at which generation ends: the eos token, those of `generation_config.json` and
    /// `config.json`, and the special tokens that end a turn or a text in the model families in use
    /// (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`, …). Sorted.
    pub fn stop_token_ids(&self) -> Vec<u32> {
        let known = STOP_TOKENS
            .iter()
            .filter_map(|token| self.token_to_id(token))
            .filter(|&id| self.is_special(id));
        let ids: BTreeSet<u32> = known.chain(self.eos).chain(self.stops.iter().copied()).collect();
        ids.into_iter().collect()
    }

    /// Whether an id is an added token, special or not: one that is matched in a text before
    /// anything else.
    pub fn is_added(&self, id: u32) -> bool {
        self.added.contains(&id)
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

fn begins(add_special: bool) -> Begins {
    if add_special { Begins::WithSpecial } else { Begins::Plainly }
}

#[cfg(test)]
pub(crate) mod tests;
