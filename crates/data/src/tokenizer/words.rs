//! A BPE word by word, with a memory of words.
//!
//! `tokenizers` carries with each piece of a text where each of its bytes came from, in several
//! vectors, and looks its words up only after that: on one core it does less than a megabyte of
//! dialogue per second. Here a text is cut by the same expressions (or, for a BPE as SentencePiece
//! has it, where no token can reach across), but into plain slices of it. A word that was seen
//! before is copied from the memory; `tokenizers` is asked for the others. A tokenizer with any
//! step that is not known here is left to that crate altogether. Tests compare the two.

mod spaces;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::utils::SysRegex;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
    OffsetType, PostProcessorWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer as Inner,
};

use unicode_normalization_alignments::is_nfc;

use super::Encoded;
use spaces::{META, Spaces};

/// GPT-2's expression, which `tokenizers`' `ByteLevel` applies.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Words that are remembered: for a language that is most of what it uses, in some 30 MB.
const REMEMBERED: usize = 1 << 18;
/// Bytes of the longest of them.
const LONGEST: usize = 64;

/// What cuts a text into words, and the words that were seen.
#[derive(Debug)]
pub(super) struct Words {
    cut: Cut,
    /// Finds where added tokens are written. `tokenizers` says which of them count, but takes 16
    /// bytes for each of the text in which it looks.
    added: AhoCorasick,
    /// Whether only texts in NFC are cut here: of those the normalizer changes nothing.
    composed_only: bool,
    /// What stands around a text.
    before: Vec<u32>,
    after: Vec<u32>,
    known: RwLock<HashMap<Box<str>, Word>>,
}

/// How a text is cut.
#[derive(Debug)]
enum Cut {
    /// A BPE on bytes, by the expressions of its pre-tokenizers.
    Steps(Vec<Step>),
    /// One on characters, where no token can reach across.
    Spaces(Spaces),
}

/// The ids of a word's tokens, each with the byte of the word at which it ends.
type Word = Box<[(u32, u32)]>;

/// One way to cut, applied to each piece that the one before has left.
#[derive(Debug)]
enum Step {
    /// What an expression matches, and what lies between.
    Expression(SysRegex),
    /// What an expression matches; what lies between is dropped.
    Matches(SysRegex),
    /// Each numeric character.
    Digits,
    /// Runs of them.
    Numbers,
}

impl Words {
    /// The words of a tokenizer, if it is of a known kind: a BPE on bytes with no normalizer but
    /// NFC, or one as SentencePiece has it; without dropout.
    pub(super) fn new(inner: &Inner) -> Option<Self> {
        let ModelWrapper::BPE(model) = inner.get_model() else { return None };
        let plain = model.dropout.is_none_or(|dropout| dropout == 0.0)
            && inner.get_truncation().is_none()
            && inner.get_padding().is_none()
            && inner.get_post_processor().is_none_or(keeps_offsets);
        if !plain {
            return None;
        }
        let (cut, composed_only) = match inner.get_pre_tokenizer().and_then(steps) {
            Some(steps) => {
                (Cut::Steps(steps), inner.get_normalizer().map_or(Some(false), composes_at_most)?)
            }
            None => (Cut::Spaces(Spaces::new(inner, model)?), false),
        };
        let ids = |special| Some(inner.encode_fast("a", special).ok()?.get_ids().to_vec());
        let (bare, whole) = (ids(false)?, ids(true)?);
        let added = AhoCorasick::new(added_contents(inner)).ok()?;
        let start = whole.windows(bare.len().max(1)).position(|window| window == bare)?;
        let (before, after) = (whole[..start].to_vec(), whole[start + bare.len()..].to_vec());
        Some(Self { cut, added, composed_only, before, after, known: RwLock::default() })
    }

    /// Whether `text` can be cut here. Most texts are in NFC as they are; what is not, `tokenizers`
    /// composes and keeps account of.
    pub(super) fn takes(&self, text: &str) -> bool {
        // The tables are those of `tokenizers`' own normalizer.
        !self.composed_only || text.is_ascii() || is_nfc(text)
    }

    /// Tokens of `text`: all, or the first ones, at least `limit`.
    pub(super) fn encode(
        &self,
        inner: &Inner,
        text: &str,
        begins: Begins,
        limit: usize,
    ) -> tokenizers::Result<Encoded> {
        self.encode_to(Encoded::default(), inner, text, begins, limit)
    }

    /// The same without offsets, which take four times as much as the ids.
    pub(super) fn ids(
        &self,
        inner: &Inner,
        text: &str,
        begins: Begins,
        limit: usize,
    ) -> tokenizers::Result<Vec<u32>> {
        Ok(self.encode_to(Ids::default(), inner, text, begins, limit)?.0)
    }

    fn encode_to<T: Tokens>(
        &self,
        mut encoded: T,
        inner: &Inner,
        text: &str,
        begins: Begins,
        limit: usize,
    ) -> tokenizers::Result<T> {
        if begins == Begins::WithSpecial {
            encoded.add(&self.before, (0, 0));
        }
        self.pieces(inner, text, begins, &mut encoded, limit)?;
        if begins == Begins::WithSpecial && encoded.count() < limit {
            encoded.add(&self.after, (0, 0));
        }
        Ok(encoded)
    }

    /// Adds the added tokens of a text, and the words between them.
    fn pieces(
        &self,
        inner: &Inner,
        text: &str,
        begins: Begins,
        encoded: &mut impl Tokens,
        limit: usize,
    ) -> tokenizers::Result<()> {
        let mut done = 0;
        for window in self.windows(text) {
            let split = inner
                .get_added_vocabulary()
                .extract_and_normalize(None::<&NormalizerWrapper>, &text[window.clone()]);
            for (_, (start, end), tokens) in
                split.get_splits(OffsetReferential::Original, OffsetType::Byte)
            {
                let (start, end) = (window.start + start, window.start + end);
                if let Some(tokens) = tokens {
                    self.piece(inner, &text[done..start], done, begins, encoded, limit)?;
                    if encoded.count() >= limit {
                        return Ok(());
                    }
                    encoded.add(
                        &tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
                        (start, end),
                    );
                    done = end;
                }
            }
        }
        self.piece(inner, &text[done..], done, begins, encoded, limit)
    }

    /// The parts of a text that may hold added tokens: where one is written, with what may make it
    /// another one or none, or go with it, which is white space and one character on each side.
    /// What overlaps is one part.
    fn windows(&self, text: &str) -> Vec<Range<usize>> {
        let mut windows: Vec<Range<usize>> = Vec::new();
        for found in self.added.find_overlapping_iter(text) {
            let (before, after) =
                (text[..found.start()].trim_end(), text[found.end()..].trim_start());
            let start = before.len() - before.chars().next_back().map_or(0, char::len_utf8);
            let end = text.len() - after.len() + after.chars().next().map_or(0, char::len_utf8);
            // Sorted by where they end, a later one may begin before several.
            let first = windows.partition_point(|window| window.end <= start);
            let start = windows.get(first).map_or(start, |window| window.start.min(start));
            let end = windows.last().map_or(end, |window| window.end.max(end));
            windows.truncate(first);
            windows.push(start..end);
        }
        windows
    }

    /// Adds the words of a piece without added tokens, which begins at byte `start` of the text.
    fn piece(
        &self,
        inner: &Inner,
        piece: &str,
        start: usize,
        begins: Begins,
        encoded: &mut impl Tokens,
        limit: usize,
    ) -> tokenizers::Result<()> {
        let mut each = |word: At<'_>| {
            if encoded.count() < limit { self.word(inner, word, encoded) } else { Ok(()) }
        };
        match &self.cut {
            Cut::Steps(steps) => {
                cut(steps, piece, start, &mut |word, start| each(At { word, start, prefix: None }))
            }
            Cut::Spaces(spaces) => {
                let first = piece.chars().next().map_or(0, char::len_utf8);
                let prefixed = begins != Begins::Continuing && spaces.is_prefixed(piece, start);
                spaces.cut(piece, prefixed, &mut |word, from, prefixed| {
                    each(At { word, start: start + from, prefix: prefixed.then_some(first) })
                })
            }
        }
    }

    fn word(&self, inner: &Inner, at: At<'_>, encoded: &mut impl Tokens) -> tokenizers::Result<()> {
        let prefixed;
        let word = match at.prefix {
            Some(_) => {
                prefixed = format!("{META}{}", at.word);
                prefixed.as_str()
            }
            None => at.word,
        };
        // A panic elsewhere cannot leave half a word.
        if let Some(tokens) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(word) {
            encoded.add_word(at, tokens);
            return Ok(());
        }
        let tokens = match &self.cut {
            Cut::Steps(_) => ask(inner, word)?,
            Cut::Spaces(_) => spaces::ask(inner, word)?,
        };
        encoded.add_word(at, &tokens);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if word.len() <= LONGEST && known.len() < REMEMBERED {
            known.insert(word.into(), tokens);
        }
        Ok(())
    }
}

/// What stands before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// What the tokenizer puts around a text (bos), and a space where it puts one.
    WithSpecial,
    /// A space where the tokenizer puts one.
    Plainly,
    /// Another text, which this one continues.
    Continuing,
}

/// A word in its text.
#[derive(Clone, Copy, Debug)]
struct At<'t> {
    word: &'t str,
    /// Its first byte.
    start: usize,
    /// If [`META`] is put before it: the bytes of the character that follows, to which `tokenizers`
    /// counts it.
    prefix: Option<usize>,
}

/// Gives `each` the words of a piece that begins at byte `start` of the text.
fn cut<'t>(
    steps: &[Step],
    piece: &'t str,
    start: usize,
    each: &mut dyn FnMut(&'t str, usize) -> tokenizers::Result<()>,
) -> tokenizers::Result<()> {
    let Some((step, rest)) = steps.split_first() else {
        return if piece.is_empty() { Ok(()) } else { each(piece, start) };
    };
    let mut done = 0;
    let mut next = |from: usize, to: usize| {
        for (from, to) in [(done, from), (from, to)] {
            if from < to {
                cut(rest, &piece[from..to], start + from, each)?;
            }
        }
        done = to;
        Ok(())
    };
    match step {
        Step::Expression(expression) => {
            expression.find_iter(piece).try_for_each(|(from, to)| next(from, to))?
        }
        Step::Matches(expression) => {
            let mut matches = expression.find_iter(piece).filter(|(from, to)| from < to);
            return matches
                .try_for_each(|(from, to)| cut(rest, &piece[from..to], start + from, each));
        }
        Step::Digits => piece
            .char_indices()
            .filter(|(_, character)| character.is_numeric())
            .try_for_each(|(from, character)| next(from, from + character.len_utf8()))?,
        Step::Numbers => {
            let mut from = 0;
            while let Some(first) = piece[from..].find(char::is_numeric) {
                let first = from + first;
                let count = piece[first..]
                    .find(|character: char| !character.is_numeric())
                    .unwrap_or(piece.len() - first);
                next(first, first + count)?;
                from = first + count;
            }
        }
    }
    next(piece.len(), piece.len())
}

/// How added tokens are written: as they are given, and as the normalizer leaves them.
fn added_contents(inner: &Inner) -> Vec<String> {
    let mut contents: Vec<String> =
        inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let normalized = |content: &String| {
        let mut normalized = NormalizedString::from(content.as_str());
        inner.get_normalizer()?.normalize(&mut normalized).ok()?;
        Some(normalized.get().to_owned()).filter(|normalized| normalized != content)
    };
    contents.extend(contents.iter().filter_map(normalized).collect::<Vec<_>>());
    contents.retain(|content| !content.is_empty());
    contents
}

/// Whether a normalizer composes characters (NFC) or, `Some(false)`, does nothing; `None` if it
/// does more.
fn composes_at_most(normalizer: &NormalizerWrapper) -> Option<bool> {
    match normalizer {
        NormalizerWrapper::NFC(_) => Some(true),
        NormalizerWrapper::Sequence(sequence) => sequence
            .as_ref()
            .iter()
            .try_fold(false, |composes, part| Some(composes | composes_at_most(part)?)),
        _ => None,
    }
}

/// Whether a post-processor adds tokens around a text at most, and lets offsets be.
fn keeps_offsets(processor: &PostProcessorWrapper) -> bool {
    match processor {
        PostProcessorWrapper::Template(_) => true,
        PostProcessorWrapper::ByteLevel(bytes) => !bytes.trim_offsets,
        PostProcessorWrapper::Roberta(roberta) => !roberta.trim_offsets,
        PostProcessorWrapper::Sequence(sequence) => sequence.as_ref().iter().all(keeps_offsets),
        _ => false,
    }
}

fn steps(pre_tokenizer: &PreTokenizerWrapper) -> Option<Vec<Step>> {
    let all = match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
        one => std::slice::from_ref(one),
    };
    // The last one maps bytes to characters, which is what a word is asked in; before it, words are
    // cut out of the text itself.
    let (PreTokenizerWrapper::ByteLevel(last), cuts) = all.split_last()? else { return None };
    let mut steps = cuts.iter().map(step).collect::<Option<Vec<_>>>()?;
    if last.use_regex {
        steps.push(Step::Expression(SysRegex::new(GPT_2).ok()?));
    }
    (!last.add_prefix_space).then_some(steps)
}

fn step(pre_tokenizer: &PreTokenizerWrapper) -> Option<Step> {
    let split = match pre_tokenizer {
        PreTokenizerWrapper::Digits(digits) => {
            return Some(if digits.individual_digits { Step::Digits } else { Step::Numbers });
        }
        PreTokenizerWrapper::Split(split) => split,
        _ => return None,
    };
    let SplitPattern::Regex(expression) = &split.pattern else { return None };
    let expression = SysRegex::new(expression).ok()?;
    match (&split.behavior, split.invert) {
        (SplitDelimiterBehavior::Isolated, _) => Some(Step::Expression(expression)),
        // What does not match is what is removed.
        (SplitDelimiterBehavior::Removed, true) => Some(Step::Matches(expression)),
        _ => None,
    }
}

/// What the model makes of one word.
fn ask(inner: &Inner, word: &str) -> tokenizers::Result<Word> {
    let mut mapped = PreTokenizedString::from(word);
    ByteLevel::new(false, false, false).pre_tokenize(&mut mapped)?;
    let mut tokens = Vec::new();
    let mut byte = 0;
    for (characters, _, _) in mapped.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        // One character is one byte of the word.
        let mut at = 0;
        for token in inner.get_model().tokenize(characters)? {
            byte += characters[at..token.offsets.1].chars().count() as u32;
            at = token.offsets.1;
            tokens.push((token.id, byte));
        }
    }
    Ok(tokens.into())
}

/// Takes tokens as they are found.
trait Tokens {
    fn count(&self) -> usize;

    /// Adds tokens that all stand for the same part of the text.
    fn add(&mut self, ids: &[u32], offsets: (usize, usize));

    /// Adds the tokens of a word.
    fn add_word(&mut self, at: At<'_>, tokens: &[(u32, u32)]);
}

/// Ids alone.
#[derive(Default)]
struct Ids(Vec<u32>);

impl Tokens for Ids {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, ids: &[u32], _offsets: (usize, usize)) {
        self.0.extend_from_slice(ids);
    }

    fn add_word(&mut self, _at: At<'_>, tokens: &[(u32, u32)]) {
        self.0.extend(tokens.iter().map(|&(id, _)| id));
    }
}

impl Tokens for Encoded {
    fn count(&self) -> usize {
        self.ids.len()
    }

    fn add(&mut self, ids: &[u32], offsets: (usize, usize)) {
        self.ids.extend_from_slice(ids);
        self.offsets.extend(ids.iter().map(|_| offsets));
    }

    fn add_word(&mut self, at: At<'_>, tokens: &[(u32, u32)]) {
        let before = at.prefix.map_or(0, |_| META.len_utf8());
        let mut from = 0;
        for &(id, to) in tokens {
            let to = to as usize;
            let first = at.word.floor_char_boundary(from.max(before) - before);
            let last = match at.prefix {
                Some(next) if to <= before => next,
                _ => at.word.ceil_char_boundary(to.max(before) - before),
            };
            self.ids.push(id);
            self.offsets.push((at.start + first, at.start + last));
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::AddedToken;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::sequence::Sequence;
    use tokenizers::pre_tokenizers::split::Split;
    use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

    use super::super::tests::parts;
    use super::super::{BpeParts, SpecialTokens, Tokenizer, pre};

    /// Merges that join whatever the expressions leave together among the characters in use, and
    /// parts of characters.
    const MERGES: [&str; 14] = [
        "Ġ a", "Ġ !", "a b", "ab c", "1 2", "12 3", "Ċ Ċ", "Ġ Ġ", "3 1", "! !", "Ã ©", "Ġ Ã",
        "ð Ł", "ĺ Ģ",
    ];

    fn tokenizer(pre: &str, add_bos: bool) -> Tokenizer {
        let tokenizer = Tokenizer::from_bpe(BpeParts { add_bos, ..parts(pre, &MERGES) }).unwrap();
        assert!(tokenizer.words.is_some(), "{pre}");
        tokenizer
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c1-3 '!é😀²\u{a0}\n\r\t]{0,40}",
            "(<\\|im_start\\|>|<\\|im_end\\|>|[a-c' \n]{1,6}|ll|\\PC){0,12}",
            any::<String>()
        ]
    }

    proptest! {
        #[test]
        fn says_what_tokenizers_says(
            texts in prop::collection::vec(text(), 1..4), pre in prop::sample::select(pre::SUPPORTED.to_vec()), special in any::<bool>()
        ) {
            let tokenizer = tokenizer(pre, true);
            // The second time from memory.
            for text in texts.iter().chain(&texts) {
                let expected = tokenizer.encode_whole(text, special).unwrap();
                prop_assert_eq!(&tokenizer.encode(text, special).unwrap(), &expected.ids);
                prop_assert_eq!(tokenizer.encode_with_offsets(text, special).unwrap(), expected);
            }
        }

        #[test]
        fn a_limit_leaves_the_beginning(text in text(), limit in 0_usize..30) {
            let tokenizer = tokenizer("smollm", false);
            let (whole, part) = (tokenizer.encode(&text, true).unwrap(), tokenizer.encode_up_to(&text, true, limit).unwrap().ids);
            prop_assert!(part.len() >= limit.min(whole.len()));
            prop_assert_eq!(&part[..], &whole[..part.len()]);
        }
    }

    #[test]
    fn an_added_token_is_found_as_the_normalizer_leaves_it() {
        let mut inner = composing().inner;
        inner.add_tokens(&[AddedToken::from("e\u{301}n", false).normalized(true)]);
        let tokenizer =
            Tokenizer::new(inner, SpecialTokens::default(), String::new(), String::new());
        let text = "aénb";
        assert!(tokenizer.words.as_ref().unwrap().takes(text));
        assert_eq!(
            tokenizer.encode_with_offsets(text, false).unwrap(),
            tokenizer.encode_whole(text, false).unwrap()
        );
    }

    /// As Qwen's tokenizers have it.
    fn composing() -> Tokenizer {
        let mut inner = tokenizer("qwen2", true).inner;
        inner.with_normalizer(Some(tokenizers::normalizers::unicode::NFC));
        Tokenizer::new(inner, SpecialTokens::default(), String::new(), String::new())
    }

    proptest! {
        #[test]
        fn texts_that_are_composed_are_cut_here_and_others_left_to_tokenizers(text in "[a-cé😀e\u{301}\u{327}한\u{1112}\u{1161}\u{11ab}Å\u{212b} \n]{0,30}") {
            let tokenizer = composing();
            let expected = tokenizer.encode_whole(&text, true).unwrap();
            prop_assert_eq!(tokenizer.encode_with_offsets(&text, true).unwrap(), expected);
            let composed: String = tokenizer.decode(&tokenizer.encode(&text, false).unwrap(), false).unwrap();
            prop_assert_eq!(tokenizer.words.as_ref().unwrap().takes(&text), text == composed);
        }

        #[test]
        fn what_lies_between_matches_may_be_dropped(text in "[a-c1-3 '!é\n]{0,40}") {
            let mut inner = tokenizer("llama-bpe", true).inner;
            for expression in [r"\p{L}+|\s+", r"\p{L}*"] {
                let pattern = tokenizers::pre_tokenizers::split::SplitPattern::Regex(expression.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Removed, true).unwrap();
                let steps: Vec<PreTokenizerWrapper> = vec![split.into(), ByteLevel::new(false, true, false).into()];
                inner.with_pre_tokenizer(Some(Sequence::new(steps)));
                let tokenizer = Tokenizer::new(inner.clone(), SpecialTokens::default(), String::new(), String::new());
                prop_assert!(tokenizer.words.is_some());
                let (fast, slow) = (tokenizer.encode(&text, true).unwrap(), tokenizer.encode_whole(&text, true).unwrap());
                prop_assert_eq!(fast, slow.ids);
            }
        }
    }

    proptest! {
        #[test]
        fn finds_the_added_tokens_that_tokenizers_finds(
            texts in prop::collection::vec("(\\PC|[ \\n\u{a0}]{1,3}|ab|abc|<s>|<p>|<t>|<t><n>|w|x){0,14}", 1..4), special in any::<bool>()
        ) {
            let Tokenizer { mut inner, named, fingerprint, name, .. } = tokenizer("smollm", true);
            let added = |content: &str| AddedToken::from(content, false).normalized(false);
            inner.add_tokens(&[
                added("ab"), added("abc"), added("<s>").lstrip(true), added("<p>").rstrip(true), added("<t>").lstrip(true).rstrip(true),
                added("w").single_word(true), added("<n>").normalized(true), added("x").normalized(true).single_word(true).lstrip(true),
            ]);
            let tokenizer = Tokenizer::new(inner, named, fingerprint, name);
            prop_assert!(tokenizer.words.is_some());
            for text in &texts {
                prop_assert_eq!(tokenizer.encode_with_offsets(text, special).unwrap(), tokenizer.encode_whole(text, special).unwrap(), "{:?}", text);
            }
        }
    }

    proptest! {
        #[test]
        fn sentencepiece_is_cut_where_no_token_reaches_across(
            text in "(<s>|</s>|[ab ▁]{1,6}|[ab ▁日本😀é\\n>]{1,6}){0,8}", special in any::<bool>(), limit in 0_usize..12
        ) {
            for tokenizer in super::super::continuation::tests::of_sentencepiece() {
                let slow = tokenizer.encode_whole(&text, special).unwrap();
                // The second time from memory.
                for _ in 0..2 {
                    prop_assert_eq!(&tokenizer.encode_with_offsets(&text, special).unwrap(), &slow);
                    prop_assert_eq!(&tokenizer.encode(&text, special).unwrap(), &slow.ids);
                }
                let part = tokenizer.encode_up_to(&text, special, limit).unwrap().ids;
                prop_assert!(part.len() >= limit.min(slow.ids.len()) && slow.ids.starts_with(&part));
                if let Some(continuation) = &tokenizer.continuation {
                    let slow = continuation.encode(&tokenizer.inner, &text).unwrap();
                    prop_assert_eq!(tokenizer.encode_continuation(&text, usize::MAX).unwrap(), slow);
                }
            }
        }
    }

    #[test]
    fn other_kinds_are_left_to_tokenizers() {
        let mut inner = tokenizer("smollm", false).inner;
        inner.with_normalizer(Some(tokenizers::normalizers::unicode::NFD));
        assert!(super::Words::new(&inner).is_none());
    }
}
