//! SentencePiece models (`tokenizer.model`) as transformers 4.57.6 converts them
//! (`convert_slow_tokenizer.py`).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::class::Class;

/// `sentencepiece_model.proto`, as far as it decides ids.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub(super) pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    pub(super) trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrainerSpec {
    /// 1 Unigram, 2 BPE, 3 words, 4 characters.
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(string, optional, tag = "45")]
    unk_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// How the parts around the vocabulary are made: the converters of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Converter {
    Llama,
    Gemma,
    T5,
    /// `SpmConverter` itself, for a class that transformers does not have.
    Plain,
}

/// The tokenizer of a SentencePiece model, or why it is not made.
pub(super) fn convert(proto: &ModelProto, class: &Class, config: &Value) -> Result<Inner, String> {
    let converter = converter(proto, class)?;
    let vocabulary = vocabulary(proto, converter, config)?;
    let model = match proto.model_type() {
        1 => unigram(proto, &vocabulary),
        _ => bpe(proto, &vocabulary, converter),
    };
    let prefix = config["add_prefix_space"].as_bool().unwrap_or(true);
    let legacy = config["legacy"].as_bool().unwrap_or(true);
    let (normalizer, pre_tokenizer, decoder) = parts(proto, converter, prefix, legacy);
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    });
    let mut inner = Inner::from_bytes(whole.to_string()).map_err(|error| error.to_string())?;
    let added: Vec<AddedToken> =
        proto.pieces.iter().filter_map(|piece| added(piece, converter)).collect();
    inner.add_tokens(&added);
    if converter == Converter::T5
        && let Some(end) = inner.token_to_id("</s>")
    {
        let processor = json!({
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
        });
        inner.with_post_processor(
            serde_json::from_value::<tokenizers::PostProcessorWrapper>(processor).ok(),
        );
    }
    Ok(inner)
}

impl ModelProto {
    fn model_type(&self) -> i32 {
        self.trainer.as_ref().and_then(|trainer| trainer.model_type).unwrap_or(1)
    }

    fn has_byte_fallback(&self) -> bool {
        self.trainer.as_ref().is_some_and(|trainer| trainer.byte_fallback())
    }

    fn charsmap(&self) -> Option<&[u8]> {
        self.normalizer.as_ref()?.precompiled_charsmap.as_deref().filter(|bytes| !bytes.is_empty())
    }
}

/// Who converts it; a model that the converter would cut differently from SentencePiece is refused.
fn converter(proto: &ModelProto, class: &Class) -> Result<Converter, String> {
    let trainer = proto.trainer.clone().unwrap_or_default();
    let normalizer = proto.normalizer.clone().unwrap_or_default();
    let flag = |flag: Option<bool>| flag.unwrap_or(true);
    let (prefix, trims) =
        (flag(normalizer.add_dummy_prefix), flag(normalizer.remove_extra_whitespaces));
    match proto.model_type() {
        1 | 2 => {}
        3 => return Err("it is a SentencePiece model of whole words".into()),
        4 => return Err("it is a SentencePiece model of characters".into()),
        other => return Err(format!("it is a SentencePiece model of the unknown type {other}")),
    }
    if trainer.treat_whitespace_as_suffix() {
        return Err("it is a SentencePiece model that puts the space after each word".into());
    }
    let is_bpe = proto.model_type() == 2;
    match class.name {
        "Llama" | "CodeLlama" if is_bpe => Ok(Converter::Llama),
        "Gemma" if is_bpe => Ok(Converter::Gemma),
        "T5" | "MT5" if !is_bpe => Ok(Converter::T5),
        "PreTrained"
            if is_bpe
                && prefix
                && !trims
                && proto.charsmap().is_none()
                && proto.has_byte_fallback() =>
        {
            Ok(Converter::Llama)
        }
        "PreTrained" if !is_bpe && prefix && trims && !proto.has_byte_fallback() => {
            Ok(Converter::Plain)
        }
        "PreTrained" => Err("it is a SentencePiece model with settings of its own".into()),
        name => Err(format!("it is the SentencePiece model of a {name}Tokenizer")),
    }
}

/// Each piece with its score, by id.
fn vocabulary(
    proto: &ModelProto,
    converter: Converter,
    config: &Value,
) -> Result<Vec<(String, f64)>, String> {
    let mut pieces: Vec<(String, f64)> = proto
        .pieces
        .iter()
        .map(|piece| (piece.piece().to_owned(), f64::from(piece.score())))
        .collect();
    if pieces.len() < 4 {
        return Err(format!("it is a SentencePiece model of {} pieces", pieces.len()));
    }
    if matches!(converter, Converter::Llama | Converter::Gemma) {
        pieces[..3].iter_mut().for_each(|(_, score)| *score = 0.0);
    }
    match converter {
        Converter::Gemma if !pieces.iter().any(|(piece, _)| piece == "\t") => {
            if let Some(tab) = pieces.iter_mut().find(|(piece, _)| piece == "<0x09>") {
                *tab = ("\t".into(), 0.0);
            }
        }
        Converter::T5 => {
            let extra = config["extra_ids"].as_u64().unwrap_or(100);
            pieces.extend((0..extra).rev().map(|i| (format!("<extra_id_{i}>"), 0.0)));
        }
        _ => {}
    }
    Ok(pieces)
}

fn unigram(proto: &ModelProto, vocabulary: &[(String, f64)]) -> Value {
    let unknown = proto.trainer.as_ref().and_then(|trainer| trainer.unk_id).unwrap_or(0);
    json!({"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": false})
}

fn bpe(proto: &ModelProto, vocabulary: &[(String, f64)], converter: Converter) -> Value {
    let ids: serde_json::Map<String, Value> =
        vocabulary.iter().zip(0..).map(|((piece, _), id)| (piece.clone(), json!(id))).collect();
    let unknown = proto
        .trainer
        .as_ref()
        .and_then(|trainer| trainer.unk_piece.clone())
        .unwrap_or_else(|| "<unk>".into());
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": converter != Converter::Plain, "ignore_merges": false,
        "vocab": ids, "merges": merges(proto, vocabulary),
    })
}

/// Every way to make a piece of two others, those of the best score first (`generate_merges`).
fn merges(proto: &ModelProto, vocabulary: &[(String, f64)]) -> Vec<(String, String)> {
    let mut ids: HashMap<&str, usize> =
        proto.pieces.iter().zip(0..).map(|(piece, id)| (piece.piece(), id)).collect();
    // The tab of the first Gemma is a byte.
    if let (false, Some(&byte)) = (ids.contains_key("\t"), ids.get("<0x09>")) {
        ids.insert("\t", byte);
    }
    // As in a dictionary of Python, a piece that occurs twice keeps its first place and its last
    // score.
    let mut scores: HashMap<&str, f64> = HashMap::new();
    for (piece, score) in vocabulary {
        scores.insert(piece, *score);
    }
    let mut all: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for (piece, _) in vocabulary {
        let Some(score) = scores.remove(piece.as_str()) else { continue };
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let mut ways: Vec<(&str, &str)> = cuts
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        ways.sort_by_key(|(left, right)| (ids[left], ids[right]));
        all.extend(ways.into_iter().map(|(left, right)| {
            (score, left.chars().count(), right.chars().count(), left, right)
        }));
    }
    // Stable, as Python's.
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    all.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// Control tokens are special, user-defined ones are not; both are matched before anything else.
fn added(piece: &Piece, converter: Converter) -> Option<AddedToken> {
    let kind = piece.kind.unwrap_or(1);
    let is_turn = converter == Converter::Gemma
        && ["<start_of_turn>", "<end_of_turn>"].contains(&piece.piece());
    [3, 4]
        .contains(&kind)
        .then(|| AddedToken::from(piece.piece(), kind == 3 || is_turn).normalized(false))
}

/// Normalizer, pre-tokenizer and decoder.
fn parts(
    proto: &ModelProto,
    converter: Converter,
    prefix: bool,
    legacy: bool,
) -> (Value, Value, Value) {
    let to_meta = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let scheme = match (prefix, legacy) {
        (true, true) => "always",
        (true, false) => "first",
        (false, _) => "never",
    };
    let metaspace = |split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    match converter {
        Converter::Llama => {
            let mut normalizers = vec![to_meta];
            if prefix {
                normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            let normalizer = if legacy {
                json!({"type": "Sequence", "normalizers": normalizers})
            } else {
                Value::Null
            };
            let pre_tokenizer = if legacy { Value::Null } else { metaspace(false) };
            (normalizer, pre_tokenizer, json!({"type": "Sequence", "decoders": decoders}))
        }
        Converter::Gemma => {
            let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
            (to_meta, split, json!({"type": "Sequence", "decoders": decoders}))
        }
        Converter::T5 | Converter::Plain => {
            let mut normalizers = vec![
                json!({"type": "Strip", "strip_left": false, "strip_right": true}),
                json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}),
            ];
            if let Some(charsmap) = proto.charsmap() {
                let encoded = STANDARD.encode(charsmap);
                normalizers
                    .insert(0, json!({"type": "Precompiled", "precompiled_charsmap": encoded}));
            }
            (
                json!({"type": "Sequence", "normalizers": normalizers}),
                metaspace(true),
                metaspace(true),
            )
        }
    }
}
