use tokenizers::step_decode_stream;

use super::Tokenizer;
use crate::error::Result;

/// Turns tokens into text one at a time, as they are generated; never gives out half a character.
///
/// A token may end inside a UTF-8 character, and some decoders look at the tokens before; so text
/// is given out only when it can no longer change.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Tokens whose text was not given out, after those whose text (`shown`) the decoder needs to
    /// see again.
    ids: Vec<u32>,
    shown: String,
    shown_ids: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), shown: String::new(), shown_ids: 0 }
    }

    /// The text that `token` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// If the decoder of the tokenizer fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        step_decode_stream(
            &self.tokenizer.inner,
            vec![token],
            self.skip_special,
            &mut self.ids,
            &mut self.shown,
            &mut self.shown_ids,
        )
        .map(Option::unwrap_or_default)
        .map_err(|error| self.tokenizer.cannot_decode(error))
    }

    /// What is left at the end: bytes that never became a character, each shown as U+FFFD.
    ///
    /// # Errors
    /// If the decoder of the tokenizer fails.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(text.strip_prefix(&self.shown).unwrap_or(&text).to_owned())
    }
}
