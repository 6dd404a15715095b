use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::{SpecialTokens, Tokenizer, pre};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// The byte-level BPE inside a GGUF file whose `tokenizer.ggml.model` is `gpt2`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpeParts {
    /// `tokenizer.ggml.tokens`: the text of each id, in GPT-2's printable form of bytes.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.merges`: `left right`, the most frequent first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.pre`: `smollm`, `gpt-2`, `llama-bpe`, `qwen2` or `default`.
    pub pre: String,
    /// Whether each token is a control token (`tokenizer.ggml.token_type` 3), which is matched
    /// before anything else.
    pub special: Vec<bool>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
}

const NAME: &str = "of the GGUF file";

fn fault(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Tokenizer { name: NAME.into(), problem: problem.into(), remedy: remedy.into() }
}

fn refused(error: tokenizers::Error) -> Error {
    fault(error.to_string(), "use another GGUF file, or a tokenizer.json")
}

impl BpeParts {
    pub(super) fn build(self) -> Result<Tokenizer> {
        self.check()?;
        let merges = self.split_merges()?;
        let named = |id: Option<u32>| id.map(|id| self.tokens[id as usize].clone());
        let pre_tokenizer = pre::pre_tokenizer(&self.pre).map_err(refused)?.ok_or_else(|| {
            fault(
                format!("the pre-tokenizer {:?} is not known", self.pre),
                format!(
                    "known are {}; or use the model's tokenizer.json",
                    pre::SUPPORTED.join(", ")
                ),
            )
        })?;

        let vocabulary: HashMap<String, u32> = self.tokens.iter().cloned().zip(0..).collect();
        if vocabulary.len() != self.tokens.len() {
            return Err(fault(
                format!("{} of its tokens occur twice", self.tokens.len() - vocabulary.len()),
                "convert the model again, or use its tokenizer.json",
            ));
        }
        let mut model = BPE::builder()
            .vocab_and_merges(
                vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(),
                merges,
            )
            .ignore_merges(pre::whole_words_first(&self.pre));
        if let Some(unknown) = named(self.unk) {
            model = model.unk_token(unknown);
        }
        let mut inner = Inner::new(model.build().map_err(refused)?);
        inner.with_pre_tokenizer(Some(pre_tokenizer));
        inner.with_decoder(Some(ByteLevel::new(false, true, true)));
        let special: Vec<AddedToken> = self
            .tokens
            .iter()
            .zip(&self.special)
            .filter(|&(_, &special)| special)
            .map(|(token, _)| AddedToken::from(token.clone(), true))
            .collect();
        inner.add_special_tokens(&special);
        if let (true, Some(bos), Some(name)) = (self.add_bos, self.bos, named(self.bos)) {
            let single: Vec<String> = vec![name.clone(), "$A".into()];
            let before = TemplateProcessing::builder()
                .try_single(single)
                .map_err(|error| fault(error, "set add_bos to false"))?
                .special_tokens(vec![(name, bos)])
                .build()
                .map_err(|error| fault(error.to_string(), "set add_bos to false"))?;
            inner.with_post_processor(Some(before));
        }

        let special = SpecialTokens {
            bos: named(self.bos),
            eos: named(self.eos),
            unk: named(self.unk),
            pad: named(self.pad),
        };
        Ok(Tokenizer::new(inner, special, self.fingerprint(), NAME.into()))
    }

    fn check(&self) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(fault("it has no tokens", "use a GGUF file with tokenizer.ggml.tokens"));
        }
        if self.special.len() != self.tokens.len() {
            return Err(fault(
                format!("{} tokens have {} types", self.tokens.len(), self.special.len()),
                "give one type per token",
            ));
        }
        for (key, id) in
            [("bos", self.bos), ("eos", self.eos), ("unknown", self.unk), ("padding", self.pad)]
        {
            if let Some(id) = id.filter(|&id| id as usize >= self.tokens.len()) {
                return Err(fault(
                    format!("the {key} token is {id}, but there are {} tokens", self.tokens.len()),
                    "convert the model again, or use its tokenizer.json",
                ));
            }
        }
        if self.add_bos && self.bos.is_none() {
            return Err(fault(
                "texts shall begin with a bos token, but it has none",
                "set add_bos to false",
            ));
        }
        Ok(())
    }

    fn split_merges(&self) -> Result<Vec<(String, String)>> {
        let pair = |(index, merge): (usize, &String)| {
            // A space inside a token is written as another character, so the one that is left
            // separates.
            match merge.split_once(' ') {
                Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                    Ok((left.into(), right.into()))
                }
                _ => Err(fault(
                    format!("merge {index} is {merge:?}"),
                    "a merge is two tokens with a space between",
                )),
            }
        };
        self.merges.iter().enumerate().map(pair).collect()
    }

    fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::new("bpe");
        fingerprint.add_all(self.tokens.iter());
        fingerprint.add_all(self.merges.iter());
        fingerprint.add(&self.pre);
        fingerprint.add(self.special.iter().map(|&special| u8::from(special)).collect::<Vec<_>>());
        fingerprint.add(format!(
            "{:?} {:?} {:?} {:?} {}",
            self.bos, self.eos, self.unk, self.pad, self.add_bos
        ));
        fingerprint.finish()
    }
}
