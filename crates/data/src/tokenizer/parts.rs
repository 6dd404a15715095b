//! What transformers changes in the parts of a `tokenizer.json` when it opens one (the `__init__`
//! of the fast tokenizers, 4.57.6), and what this crate changes for its own purposes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use super::SpecialTokens;
use super::class::Class;

/// The tokens around a text that `add_bos_token` and `add_eos_token` ask for.
///
/// # Errors
/// A message, if `tokenizer_config.json` asks for a token that it does not name.
pub(super) fn surround(
    inner: &mut Inner,
    class: &Class,
    config: &Value,
    special: &SpecialTokens,
) -> Result<(), String> {
    let Some(default) = class.adds_bos() else { return Ok(()) };
    let wanted = |key: &str, default: bool| {
        config.get(key).map_or(default, |value| value.as_bool().unwrap_or(false))
    };
    let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
    let mut tokens = serde_json::Map::new();
    for (key, default, token, place) in
        [("add_bos_token", default, &special.bos, 0), ("add_eos_token", false, &special.eos, 1)]
    {
        if !wanted(key, default) {
            continue;
        }
        let known = token.as_ref().and_then(|text| Some((text, inner.token_to_id(text)?)));
        match known {
            Some((text, id)) => {
                single.insert(
                    if place == 0 { 0 } else { single.len() },
                    json!({ "SpecialToken": { "id": text, "type_id": 0 } }),
                );
                tokens.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
            }
            None if config.get(key).is_some() => {
                return Err(format!("{key} is true, but {} is not given", &key[4..]));
            }
            None => {}
        }
    }
    let processor = json!({ "type": "TemplateProcessing", "single": single, "pair": pair(), "special_tokens": tokens });
    inner.with_post_processor(serde_json::from_value::<PostProcessorWrapper>(processor).ok());
    Ok(())
}

/// Pairs of texts are never asked for.
fn pair() -> Value {
    json!([{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }])
}

/// `add_prefix_space`, which wins over what `tokenizer.json` says.
pub(super) fn prefix_space(inner: &mut Inner, class: &Class, config: &Value) {
    if class.converts_for_prefix() {
        // They take it into the conversion from SentencePiece.
        return;
    }
    let wanted = config["add_prefix_space"].as_bool().unwrap_or(false);
    let everywhere = wanted && ["Cohere", "Bloom"].contains(&class.name);
    let Some(pre_tokenizer) = inner.get_pre_tokenizer() else { return };
    let changed = changed::<PreTokenizerWrapper>(pre_tokenizer, |part| {
        if everywhere {
            set_everywhere(part, "add_prefix_space", true);
        } else if let Some(old) = part.get_mut("add_prefix_space") {
            // A sequence has no such key, and stays as it is.
            *old = wanted.into();
        }
    });
    if let Some(changed) = changed {
        inner.with_pre_tokenizer(Some(changed));
    }
}

/// `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of BERT's relatives.
pub(super) fn bert_normalizer(inner: &mut Inner, class: &Class, config: &Value) {
    let Some(normalizer) = inner.get_normalizer().filter(|_| class.sets_bert_normalizer()) else {
        return;
    };
    let changed = changed::<NormalizerWrapper>(normalizer, |part| {
        if part["type"] != "BertNormalizer" {
            return;
        }
        part["lowercase"] = config.get("do_lower_case").cloned().unwrap_or(true.into());
        part["strip_accents"] = config.get("strip_accents").cloned().unwrap_or(Value::Null);
        if !["MPNet", "Splinter"].contains(&class.name) {
            part["handle_chinese_chars"] =
                config.get("tokenize_chinese_chars").cloned().unwrap_or(true.into());
        }
    });
    if let Some(changed) = changed {
        inner.with_normalizer(Some(changed));
    }
}

/// Lets each token keep the bytes it stands for. `trim_offsets` would take white space from them,
/// and leave a token that is nothing else with none: which tokens are trained is told by these
/// bytes. Ids are the same.
pub(super) fn whole_offsets(inner: &mut Inner) {
    let Some(processor) = inner.get_post_processor() else { return };
    if let Some(changed) = changed::<PostProcessorWrapper>(processor, |part| {
        set_everywhere(part, "trim_offsets", false)
    }) {
        inner.with_post_processor(Some(changed));
    }
}

/// A part after `change` to its JSON; `None` if that changes nothing.
pub(super) fn changed<T: Serialize + DeserializeOwned>(
    part: &T,
    change: impl FnOnce(&mut Value),
) -> Option<T> {
    let before = serde_json::to_value(part).ok()?;
    let mut after = before.clone();
    change(&mut after);
    if before == after { None } else { serde_json::from_value(after).ok() }
}

fn set_everywhere(part: &mut Value, key: &str, value: bool) {
    match part {
        Value::Object(table) => {
            for (name, inner) in table {
                if name == key {
                    *inner = value.into();
                } else {
                    set_everywhere(inner, key, value);
                }
            }
        }
        Value::Array(several) => {
            several.iter_mut().for_each(|inner| set_everywhere(inner, key, value))
        }
        _ => {}
    }
}
