//! Words of a BPE as SentencePiece has it, which sees a text as one word: where it may be cut all
//! the same.
//!
//! A merge makes two neighbours into one token, whose text is theirs together. Two characters that
//! stand side by side in no token of the vocabulary are therefore never joined, nor is what lies to
//! their left with what lies to their right: between them a text can be cut, and its parts
//! tokenised apart, without a change of any id. In practice that is before nearly every space.

use std::collections::HashSet;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    Model, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Inner,
};

use super::Word;

/// The character that stands for a space.
pub(super) const META: char = '▁';

/// Where to cut, and what is put before a text.
#[derive(Debug)]
pub(super) struct Spaces {
    pairs: HashSet<(char, char)>,
    /// Those of ASCII and [`META`], by twice seven bits: most of what is asked.
    ascii: Box<[bool]>,
    pub(super) prefix: Prefix,
}

/// The pieces of a text before which [`META`] is put. Added tokens part a text into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    None,
    /// The normalizer `Prepend`.
    Each,
    /// `Metaspace`, which leaves a piece alone that begins with a space: each, or only the one at
    /// the beginning.
    EachWithout,
    FirstWithout,
}

/// The place of a character in the table; the last place is that of [`META`], so that DEL has none.
fn place(character: char) -> Option<usize> {
    match character {
        META => Some(127),
        '\u{0}'..='\u{7e}' => Some(character as usize),
        _ => None,
    }
}

impl Spaces {
    /// If this is such a tokenizer: one without unknown characters, each of which would be joined
    /// with its neighbours.
    pub(super) fn new(inner: &Inner, model: &BPE) -> Option<Self> {
        let prefix = prefix(inner)?;
        let has_normalized =
            inner.get_added_tokens_decoder().values().any(|token| token.normalized);
        let vocabulary = model.get_vocab();
        let has_all_bytes =
            model.byte_fallback && (0..=255).all(|byte| vocabulary.contains_key(&byte_token(byte)));
        let plain = model.continuing_subword_prefix.as_ref().is_none_or(String::is_empty)
            && model.end_of_word_suffix.as_ref().is_none_or(String::is_empty)
            && !model.ignore_merges;
        let knows_space = vocabulary.contains_key("▁");
        if has_normalized
            || !has_all_bytes
            || !plain
            || !knows_space
            || vocabulary.keys().any(|token| joins_bytes(token))
        {
            return None;
        }
        let mut spaces = Self { pairs: HashSet::new(), ascii: vec![false; 1 << 14].into(), prefix };
        for token in vocabulary.keys() {
            for (left, right) in token.chars().zip(token.chars().skip(1)) {
                match (place(left), place(right)) {
                    (Some(left), Some(right)) => spaces.ascii[left << 7 | right] = true,
                    _ => drop(spaces.pairs.insert((left, right))),
                }
            }
        }
        Some(spaces)
    }

    /// Whether some token holds the two side by side.
    fn may_join(&self, left: char, right: char) -> bool {
        match (place(left), place(right)) {
            (Some(left), Some(right)) => self.ascii[left << 7 | right],
            _ => self.pairs.contains(&(left, right)),
        }
    }

    /// Whether [`META`] is put before this piece, which begins at byte `start` of the text.
    pub(super) fn is_prefixed(&self, piece: &str, start: usize) -> bool {
        let begins_with_space = piece.starts_with([' ', META]);
        match self.prefix {
            Prefix::None => false,
            Prefix::Each => !piece.is_empty(),
            Prefix::EachWithout => !piece.is_empty() && !begins_with_space,
            Prefix::FirstWithout => start == 0 && !piece.is_empty() && !begins_with_space,
        }
    }

    /// Gives `each` the words of a piece, where they begin, and whether [`META`] is put before one:
    /// only before the first, which may be nothing else.
    pub(super) fn cut<'t>(
        &self,
        piece: &'t str,
        prefixed: bool,
        each: &mut dyn FnMut(&'t str, usize, bool) -> tokenizers::Result<()>,
    ) -> tokenizers::Result<()> {
        let (mut from, mut last) = (0, None);
        let mut prefixed = prefixed;
        if prefixed
            && piece.chars().next().is_some_and(|first| !self.may_join(META, to_meta(first)))
        {
            each("", 0, true)?;
            prefixed = false;
        }
        for (at, character) in piece.char_indices() {
            let character = to_meta(character);
            if last.is_some_and(|last| !self.may_join(last, character)) {
                each(&piece[from..at], from, prefixed && from == 0)?;
                from = at;
            }
            last = Some(character);
        }
        if from < piece.len() { each(&piece[from..], from, prefixed && from == 0) } else { Ok(()) }
    }
}

fn to_meta(character: char) -> char {
    if character == ' ' { META } else { character }
}

/// What the model makes of one word.
pub(super) fn ask(inner: &Inner, word: &str) -> tokenizers::Result<Word> {
    let written = word.replace(' ', "▁");
    let tokens = inner.get_model().tokenize(&written)?;
    // Bytes of the word, and bytes of it as it is written.
    let (mut own, mut other) = (0, 0);
    let mut characters = word.chars();
    let end = |token: tokenizers::Token| {
        while other < token.offsets.1 {
            let Some(character) = characters.next() else { break };
            own += character.len_utf8();
            other += to_meta(character).len_utf8();
        }
        // A token that is a byte ends inside a character.
        (token.id, (own - (other - token.offsets.1).min(own)) as u32)
    };
    Ok(tokens.into_iter().map(end).collect())
}

fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Whether a token is made of the token of a byte and more: bytes would be joined by that name, not
/// by their character.
fn joins_bytes(token: &str) -> bool {
    let is_byte = |name: &[u8]| {
        name.starts_with(b"<0x")
            && name[3].is_ascii_hexdigit()
            && name[4].is_ascii_hexdigit()
            && name[5] == b'>'
    };
    token.len() > 6 && token.as_bytes().windows(6).any(is_byte)
}

/// What a tokenizer puts before a text, if normalizer and pre-tokenizer do no more than that and
/// write [`META`] for a space.
fn prefix(inner: &Inner) -> Option<Prefix> {
    let normalizers = match inner.get_normalizer() {
        None => &[],
        Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref(),
        Some(one) => std::slice::from_ref(one),
    };
    let by_normalizer = match normalizers {
        [] => None,
        [NormalizerWrapper::Prepend(prepend), replace]
            if prepend.prepend == "▁" && writes_meta(replace) =>
        {
            Some(Prefix::Each)
        }
        [replace] if writes_meta(replace) => Some(Prefix::None),
        _ => return None,
    };
    match (inner.get_pre_tokenizer(), by_normalizer) {
        (None, Some(prefix)) => Some(prefix),
        // Of Gemma: no space is left to split at.
        (Some(PreTokenizerWrapper::Split(split)), Some(prefix)) => {
            let at_spaces = matches!(&split.pattern, SplitPattern::String(space) if space == " ");
            (at_spaces
                && matches!(split.behavior, SplitDelimiterBehavior::MergedWithPrevious)
                && !split.invert)
                .then_some(prefix)
        }
        (Some(PreTokenizerWrapper::Metaspace(metaspace)), None)
            if !metaspace.split && metaspace.get_replacement() == META =>
        {
            Some(match metaspace.prepend_scheme {
                PrependScheme::Always => Prefix::EachWithout,
                PrependScheme::First => Prefix::FirstWithout,
                PrependScheme::Never => Prefix::None,
            })
        }
        _ => None,
    }
}

fn writes_meta(normalizer: &NormalizerWrapper) -> bool {
    // The pattern is private to the normalizer.
    let NormalizerWrapper::Replace(replace) = normalizer else { return false };
    let wanted =
        tokenizers::normalizers::replace::Replace::new(ReplacePattern::String(" ".into()), "▁");
    wanted.is_ok_and(|wanted| *replace == wanted)
}
