//! Which tokens are special, as `PreTrainedTokenizerFast` of transformers 4.57.6 decides it
//! (`_from_pretrained` in `tokenization_utils_base.py`, `__init__` in
//! `tokenization_utils_fast.py`).

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::class::{Class, ROLES};

/// The special tokens of a tokenizer, as text. A chat template refers to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The token that begins a text.
    pub bos: Option<String>,
    /// The token that ends a text.
    pub eos: Option<String>,
    /// The token for what the vocabulary lacks.
    pub unk: Option<String>,
    /// The token that fills up a batch.
    pub pad: Option<String>,
}

/// What the files of a model say about special tokens. A file that is not there is `Null`.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `tokenizer_config.json`.
    pub(super) config: Value,
    /// `special_tokens_map.json`.
    pub(super) map: Value,
    /// `added_tokens.json`.
    pub(super) added: Value,
}

/// A special token by its text alone, or with all that a file says about it.
#[derive(Clone, Debug)]
enum Named {
    Text(String),
    Table(AddedToken),
}

impl Named {
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            table => added_token(table).map(Self::Table),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Table(token) => &token.content,
        }
    }
}

/// A token written as a table. Its defaults are those of `AddedToken` in the Python package
/// tokenizers.
fn added_token(table: &Value) -> Option<AddedToken> {
    let flag = |key: &str| table[key].as_bool();
    let special = flag("special").unwrap_or(false);
    let token = AddedToken::from(table["content"].as_str()?, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Some(token)
}

/// Adds to `inner` the tokens that only the other files have, and says which text has which role.
pub(super) fn apply(inner: &mut Inner, class: &Class, files: &Files) -> SpecialTokens {
    let own = inner.get_added_tokens_decoder();
    let decoder = match files.config["added_tokens_decoder"].as_object() {
        Some(table) => table
            .iter()
            .filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token)?)))
            .collect(),
        None => {
            let mut tokens = files.older_tokens();
            tokens.extend(own.iter().map(|(&id, token)| (u64::from(id), token.clone())));
            tokens
        }
    };
    let known: BTreeMap<&str, &AddedToken> =
        decoder.values().map(|token| (token.content.as_str(), token)).collect();
    let flags = |named: Named| {
        known.get(named.text()).map_or(named.clone(), |&token| Named::Table(token.clone()))
    };
    let roles: Vec<Option<Named>> =
        (0..ROLES.len()).map(|role| named(inner, class, files, role).map(flags)).collect();
    let mut special: Vec<Named> = roles.iter().flatten().cloned().collect();
    special.extend(additional(inner, class, files).into_iter().map(flags));

    let mut tokens: Vec<AddedToken> = decoder.values().cloned().collect();
    for named in &special {
        match named {
            Named::Text(text)
                if own.values().chain(&tokens).any(|token| token.content == *text) => {}
            Named::Text(text) => tokens.push(AddedToken::from(text.clone(), true)),
            Named::Table(token) if tokens.contains(token) => {}
            Named::Table(token) => tokens.push(token.clone()),
        }
    }
    for token in &mut tokens {
        token.special |= special.iter().any(|named| named.text() == token.content);
    }
    inner.add_tokens(&tokens);

    let text = |role: usize| roles[role].as_ref().map(|named| named.text().to_owned());
    SpecialTokens { bos: text(0), eos: text(1), unk: text(2), pad: text(4) }
}

/// The added tokens that `tokenizer_config.json` or `added_tokens.json` lists: text, id, whether it
/// is special.
pub(super) fn listed(files: &Files) -> Vec<(String, u32, bool)> {
    let tokens = match files.config["added_tokens_decoder"].as_object() {
        Some(table) => table
            .iter()
            .filter_map(|(id, token)| Some((id.parse().ok()?, added_token(token)?)))
            .collect(),
        None => files.older_tokens(),
    };
    tokens
        .into_iter()
        .filter_map(|(id, token)| Some((token.content, u32::try_from(id).ok()?, token.special)))
        .collect()
}

impl Files {
    /// Whether `tokenizer_config.json` lists the added tokens: then the two older files are not
    /// read.
    fn are_modern(&self) -> bool {
        self.config["added_tokens_decoder"].is_object()
    }

    /// What they say about a role: `special_tokens_map.json` before `tokenizer_config.json`.
    fn role(&self, role: &str) -> Option<Value> {
        match self.map.get(role).filter(|_| !self.are_modern()) {
            Some(Value::Object(table)) => {
                let mut table = table.clone();
                table.insert("special".into(), true.into());
                Some(Value::Object(table))
            }
            Some(other) => Some(other.clone()),
            None => self.config.get(role).cloned(),
        }
    }

    /// `added_tokens.json`, by id.
    fn older_tokens(&self) -> BTreeMap<u64, AddedToken> {
        let texts: Vec<String> = ROLES
            .iter()
            .filter_map(|role| Some(Named::parse(&self.role(role)?)?.text().to_owned()))
            .collect();
        let tokens = self.added.as_object().into_iter().flatten();
        tokens
            .filter_map(|(text, id)| {
                Some((id.as_u64()?, AddedToken::from(text.clone(), texts.contains(text))))
            })
            .collect()
    }
}

/// The token of a role: what a file says, even that there is none, else the default of the class. A
/// default that the vocabulary lacks is left out: transformers would give it an id for which the
/// model has no row.
fn named(inner: &Inner, class: &Class, files: &Files, role: usize) -> Option<Named> {
    match files.role(ROLES[role]) {
        Some(value) => Named::parse(&value).filter(|named| !named.text().is_empty()),
        None => class
            .default(role)
            .filter(|text| inner.token_to_id(text).is_some())
            .map(|text| Named::Text(text.into())),
    }
}

/// `additional_special_tokens`, `extra_special_tokens`, and those of the class.
fn additional(inner: &Inner, class: &Class, files: &Files) -> Vec<Named> {
    let list = |table: &Value, key: &str| match &table[key] {
        Value::Array(several) => several.clone(),
        Value::Object(by_name) => by_name.values().cloned().collect(),
        _ => Vec::new(),
    };
    let mut values = list(&files.config, "additional_special_tokens");
    if !files.are_modern() {
        values.extend(list(&files.map, "additional_special_tokens"));
    }
    values.extend(list(&files.config, "extra_special_tokens"));
    let own = class
        .additional(&files.config)
        .into_iter()
        .filter(|text| inner.token_to_id(text).is_some());
    let named = values.iter().filter_map(Named::parse).filter(|named| !named.text().is_empty());
    named.chain(own.map(Named::Text)).collect()
}
