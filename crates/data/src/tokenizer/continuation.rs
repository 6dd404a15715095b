//! A text that continues another one, in tokenizers that begin each text with a space that nobody
//! wrote.

use serde_json::{Value, json};
use tokenizers::{
    Model, NormalizerWrapper, OffsetType, PreTokenizer, PreTokenizerWrapper, Tokenizer as Inner,
};

/// The steps before the model, without the space.
///
/// Three of them write it: the normalizer `Prepend` (Llama 2, Mistral), the pre-tokenizer
/// `Metaspace` whose `prepend_scheme` is not `never` (T5, later Llamas), and `ByteLevel` with
/// `add_prefix_space`.
#[derive(Clone, Debug)]
pub(super) struct Continuation {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Continuation {
    /// `None` if the tokenizer adds no space.
    pub(super) fn new(inner: &Inner) -> Option<Self> {
        let before = (json!(inner.get_normalizer()), json!(inner.get_pre_tokenizer()));
        let (mut normalizer, mut pre_tokenizer) = before.clone();
        without_prepend(&mut normalizer);
        without_prefix(&mut pre_tokenizer);
        if (&normalizer, &pre_tokenizer) == (&before.0, &before.1) {
            return None;
        }
        Some(Self {
            normalizer: serde_json::from_value(normalizer).ok()?,
            pre_tokenizer: serde_json::from_value(pre_tokenizer).ok()?,
        })
    }

    /// What `tokenizers` does (`TokenizerImpl::encode`) with these steps in place of its own.
    pub(super) fn encode(&self, inner: &Inner, text: &str) -> tokenizers::Result<Vec<u32>> {
        let mut pieces =
            inner.get_added_vocabulary().extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::Byte)?.get_ids().to_vec())
    }
}

fn without_prepend(normalizer: &mut Value) {
    if normalizer["type"] == "Prepend" {
        *normalizer = Value::Null;
    } else if let Some(parts) = normalizer.get_mut("normalizers").and_then(Value::as_array_mut) {
        parts.iter_mut().for_each(without_prepend);
        parts.retain(|part| !part.is_null());
    }
}

fn without_prefix(pre_tokenizer: &mut Value) {
    match pre_tokenizer["type"].as_str() {
        Some("Metaspace") => pre_tokenizer["prepend_scheme"] = "never".into(),
        Some("ByteLevel") => pre_tokenizer["add_prefix_space"] = false.into(),
        Some("Sequence") => {
            if let Some(parts) =
                pre_tokenizer.get_mut("pretokenizers").and_then(Value::as_array_mut)
            {
                parts.iter_mut().for_each(without_prefix);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::tests::bytes_only;
    use super::super::{SpecialTokens, Tokenizer};
    use super::*;

    /// A BPE of SentencePiece's kind: letters, spaces, and every byte for what else there is.
    pub(super) fn sentencepiece(
        normalizer: Value,
        pre_tokenizer: Value,
        strips: bool,
    ) -> Tokenizer {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(
            ["▁", "a", "b", "日", "▁a", "▁▁", "ab", "▁ab", "▁▁▁", "a▁", "b>"].map(str::to_owned),
        );
        let merges =
            json!([["a", "b"], ["▁", "ab"], ["▁", "a"], ["▁", "▁"], ["▁▁", "▁"], ["a", "▁"]]);
        let vocabulary: serde_json::Map<String, Value> =
            tokens.into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect();
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if strips {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let special = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let whole = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(1, "<s>"), special(2, "</s>")],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary, "merges": merges},
        });
        let inner = Inner::from_bytes(whole.to_string()).unwrap();
        Tokenizer::new(inner, SpecialTokens::default(), String::new(), String::new())
    }

    fn metaspace(scheme: &str, split: bool) -> Tokenizer {
        let step = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        sentencepiece(Value::Null, step, scheme != "never")
    }

    fn prepend() -> Tokenizer {
        let (prepend, replace) = (
            json!({"type": "Prepend", "prepend": "▁"}),
            json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        );
        sentencepiece(
            json!({"type": "Sequence", "normalizers": [prepend, replace]}),
            Value::Null,
            true,
        )
    }

    fn all() -> Vec<Tokenizer> {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut all = vec![prepend(), sentencepiece(replace, Value::Null, false), bytes_only()];
        all.extend(
            ["first", "always", "never"]
                .into_iter()
                .flat_map(|scheme| [metaspace(scheme, true), metaspace(scheme, false)]),
        );
        let mut inner = bytes_only().inner;
        inner.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::byte_level::ByteLevel::new(
            true, true, true,
        )));
        all.push(Tokenizer::new(inner, SpecialTokens::default(), String::new(), String::new()));
        all
    }

    /// Those that are cut where no token reaches across.
    pub(in super::super) fn of_sentencepiece() -> Vec<Tokenizer> {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
        let mut all = vec![prepend(), sentencepiece(replace, split, false)];
        all.extend(["first", "always", "never"].map(|scheme| metaspace(scheme, false)));
        assert!(all.iter().all(|tokenizer| tokenizer.words.is_some()));
        all
    }

    #[test]
    fn no_space_comes_between() {
        for tokenizer in [prepend(), metaspace("first", false), metaspace("always", true)] {
            let token = |token: &str| tokenizer.token_to_id(token).unwrap();
            assert_eq!(tokenizer.encode("ab", false).unwrap(), [token("▁ab")]);
            assert_eq!(tokenizer.encode_continuation("ab", 9).unwrap(), [token("ab")]);
            assert_eq!(tokenizer.encode_continuation(" ab", 9).unwrap(), [token("▁ab")]);
        }
        assert!(
            metaspace("never", true).continuation.is_none() && bytes_only().continuation.is_none()
        );
    }

    #[test]
    fn added_tokens_are_found() {
        let tokenizer = prepend();
        assert_eq!(tokenizer.encode_continuation("ab</s>ab", 9).unwrap(), [265, 2, 265]);
    }

    proptest! {
        #[test]
        fn prompt_and_continuation_decode_to_one_text(prompt in "[ab \\n日本😀é]{1,12}", completion in "[ab \\n日本😀é]{0,12}") {
            for tokenizer in all() {
                let mut ids = tokenizer.encode(&prompt, true).unwrap();
                // A `Metaspace` takes a space that a prompt begins with for its own.
                let beginning = tokenizer.decode(&ids, false).unwrap();
                prop_assert!(prompt.starts_with(' ') || beginning.trim_start_matches(' ') == prompt);
                ids.extend(tokenizer.encode_continuation(&completion, usize::MAX).unwrap());
                prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), beginning + &completion);
            }
        }
    }
}
