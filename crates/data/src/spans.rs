//! Which part of a rendered conversation the assistant says.
//!
//! Nothing is assumed of the template. Each turn's texts are marked, and the marks' places in the
//! text tell where its words have landed ([`marks`]). They *begin* where the rendering of the turns
//! before, with the generation prompt, leaves the text, and *end* with the first special token
//! after the last of them: the one at which the model stops. Where a template ends turns with plain
//! text, that is what all renderings of the turn have in common; where with nothing but the next
//! role's token, that token; where with nothing at all, the eos token.

mod marks;

use std::ops::Range;

use crate::encode::{Failure, faulty};
use crate::message::Message;
use crate::record::Fault;
use crate::template::Chat;
use crate::tokenizer::{Encoded, Tokenizer};
use marks::Mark;

/// What one turn of the assistant takes of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Bytes of the text, in order.
    pub(crate) parts: Vec<Range<usize>>,
    /// A token that must follow the whole text, so that the turn ends.
    pub(crate) append: Option<u32>,
}

/// A conversation, its text and its tokens.
pub(crate) struct Aligned<'a> {
    pub(crate) chat: &'a Chat<'a>,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) text: &'a str,
    pub(crate) encoded: &'a Encoded,
    /// What `{% generation %}` blocks wrote.
    pub(crate) blocks: Option<&'a [Range<usize>]>,
    /// Bytes whose tokens are wanted.
    pub(crate) wanted: usize,
}

/// Where the words of a turn stand: from the first byte to the end of the last word.
type Words = Option<Range<usize>>;

/// What stood between the end of one turn's words and the beginning of the assistant's, by the role
/// of that turn.
type Headers = Vec<(String, String)>;

impl Aligned<'_> {
    /// The spans of those of the assistant's turns that `picked` picks, in order; and the turns
    /// whose words the template does not write.
    ///
    /// # Errors
    /// If the template does not tell where a turn is, or does not write a call.
    pub(crate) fn spans(
        &self,
        picked: impl Fn(usize) -> bool,
    ) -> Result<(Vec<Span>, Vec<usize>), Failure> {
        if marks::holds_marks(self.text) {
            return Err(refuse(
                "the conversation holds the noncharacter U+FDD0 or U+FDD1",
                "remove it from the record",
            ));
        }
        let (words, unwritten) = self.words(&picked)?;
        let spoken =
            |turn: &usize| self.chat.conversation.messages[*turn].is_assistant() && picked(*turn);
        if (0..words.len()).any(|turn| spoken(&turn))
            && (0..words.len()).filter(spoken).all(|turn| words[turn].is_none())
        {
            return Err(refuse(
                "the chat template writes nothing of what the assistant says",
                "check the template, and the keys of the turns",
            ));
        }
        let mut headers = Headers::new();
        let mut spans = Vec::new();
        for turn in (0..words.len()).filter(spoken) {
            let Some(range) = &words[turn] else { continue };
            if self.wanted < self.text.len() && range.start >= self.wanted {
                break;
            }
            let start = self.start(turn, &words, &mut headers)?;
            let (end, append) = self.end(turn, &words, start)?;
            let parts = self.within_blocks(start..end.max(start), range.end);
            spans.push(Span { parts, append });
        }
        Ok((spans, unwritten))
    }

    /// The words of each turn, from one rendering of all of them with marks; where marks change
    /// what the template writes, from renderings of their own. And the turns whose words are not in
    /// the text.
    fn words(&self, picked: &impl Fn(usize) -> bool) -> Result<(Vec<Words>, Vec<usize>), Failure> {
        let messages = &self.chat.conversation.messages;
        let marked: Vec<_> = messages
            .iter()
            .enumerate()
            .map(|(turn, message)| Chat::message(&marks::marked(message, turn)))
            .collect();
        let found = self
            .chat
            .render(&marked, false)
            .ok()
            .map(|text| marks::strip(&text))
            .filter(|(text, _)| text == self.text);
        let mut words: Vec<Words> = vec![None; messages.len()];
        let marks: &[Mark] = found.as_ref().map_or(&[], |(_, marks)| marks);
        self.check_calls(marks)?;
        for &Mark { turn, at, .. } in marks {
            if let Some(words) = words.get_mut(turn) {
                *words = Some(
                    words.as_ref().map_or(at..at, |range| range.start.min(at)..range.end.max(at)),
                );
            }
        }
        let mut unwritten = Vec::new();
        for turn in 0..messages.len() {
            if found.is_some()
                && words[turn].is_none()
                && marks::says_something(&messages[turn])
                && self.words_alone(turn)?.is_none()
            {
                unwritten.push(turn);
                continue;
            }
            let is_spoken = messages[turn].is_assistant() && picked(turn);
            let is_before =
                messages.get(turn + 1).is_some_and(|next| next.is_assistant()) && picked(turn + 1);
            let is_vague = words[turn].is_none() && (is_spoken || (found.is_none() && is_before));
            if is_vague || (is_spoken && !marks::ends_with_text(&messages[turn])) {
                let exact = self.words_alone(turn)?;
                words[turn] = match (words[turn].take(), exact) {
                    (Some(marked), Some(exact)) => Some(marked.start..exact.end.max(marked.end)),
                    (marked, exact) => exact.or(marked),
                };
            }
        }
        Ok((words, unwritten))
    }

    /// Refuses a call that the template does not write: nothing, or an empty turn, would be trained
    /// in its place.
    fn check_calls(&self, marks: &[Mark]) -> Result<(), Failure> {
        for (turn, message) in self.chat.conversation.messages.iter().enumerate() {
            let calls = message
                .fields()
                .get("tool_calls")
                .and_then(|calls| calls.as_array())
                .map_or(0, Vec::len);
            for call in 0..calls {
                if marks.iter().any(|mark| mark.turn == turn && mark.call == Some(call)) {
                    continue;
                }
                let mut messages = self.chat.messages().to_vec();
                messages[turn] = Chat::message(&marks::with_call_changed(message, call));
                // A template that refuses the change reads the call.
                if self.chat.render(&messages, false).is_ok_and(|changed| changed == self.text) {
                    let which = if calls == 1 { String::new() } else { format!("all {calls} of ") };
                    let problem = format!(
                        "the chat template does not write {which}the tool calls of turn {}",
                        turn + 1
                    );
                    let remedy = "use a model or a [model] chat_template that writes them, or remove the record";
                    return Err(Failure::Record(Fault { problem, remedy: remedy.into() }));
                }
            }
        }
        Ok(())
    }

    /// Where the text changes if this turn alone changes; nowhere if the template does not write
    /// it.
    fn words_alone(&self, turn: usize) -> Result<Words, Failure> {
        let mut messages = self.chat.messages().to_vec();
        messages[turn] =
            Chat::message(&marks::changed(&self.chat.conversation.messages[turn], turn));
        let changed = self.render(&messages, false)?;
        if changed == self.text {
            return Ok(None);
        }
        let start = common_prefix(self.text, &changed);
        let longest = self.text.len().min(changed.len()) - start;
        let suffix = common_suffix(&self.text[start..], &changed[start..]).min(longest);
        Ok(Some(start..self.text.len() - suffix))
    }

    /// Where the assistant begins to write: after what the model would be prompted with.
    fn start(&self, turn: usize, words: &[Words], headers: &mut Headers) -> Result<usize, Failure> {
        let first = words[turn].as_ref().map_or(0, |range| range.start);
        let before = words[..turn]
            .iter()
            .flatten()
            .map(|range| range.end)
            .filter(|&end| end <= first)
            .max()
            .unwrap_or(0);
        let head = &self.text[before..first];
        let role =
            turn.checked_sub(1).map_or("", |before| self.chat.conversation.messages[before].role());
        // A header that was met after a turn of that role, and that leads right to the words, needs
        // no rendering of its own.
        if headers.iter().any(|(after, header)| after == role && head == header) {
            return Ok(first);
        }
        let after_prompt = || {
            self.generation_prompt()
                .and_then(|prompt| Some(before + head.rfind(&prompt)? + prompt.len()))
        };
        if turn == 0 {
            // No turn prompts it: many templates refuse an empty conversation, or write no system
            // prompt then.
            return Ok(after_prompt().unwrap_or(first));
        }
        let Ok(prompt) = self.chat.render(&self.chat.messages()[..turn], true) else {
            return Ok(after_prompt().unwrap_or(first));
        };
        // It may lie within the words of the turn, where they begin with the thought that the
        // prompt has opened.
        let start = self.common_tokens(&prompt)?;
        // A prompt that leaves the text before its end may continue after something that only the
        // last turn has or has not, as a line break.
        let opened = || {
            Some(before + head.rfind(&self.generation_prompt()?)?).filter(|&opened| opened >= start)
        };
        let start = match opened().filter(|_| !self.text.starts_with(&prompt) && start >= before) {
            Some(opened) => opened + self.generation_prompt().map_or(0, |prompt| prompt.len()),
            None => start,
        };
        let start =
            if start >= before { start } else { self.aligned_by_suffix(&prompt, before, first)? };
        headers.push((role.to_owned(), self.text[before..start].to_owned()));
        Ok(start)
    }

    /// How far the text agrees with another rendering, in whole tokens of that one.
    fn common_tokens(&self, other: &str) -> Result<usize, Failure> {
        let common = common_prefix(self.text, other);
        if common == other.len() {
            return Ok(common);
        }
        // Neither is a tag cut that the two begin alike, as `<think>` and `<tool_call>`.
        let tag = other[..common]
            .rfind('<')
            .filter(|&tag| !other[tag..common].contains(|c: char| c == '>' || c.is_whitespace()));
        let cut = self.tokenizer.encode_with_offsets(other, false)?;
        let is_cut = |&(index, &(start, end)): &(usize, &(usize, usize))| {
            start < common && common < end && self.tokenizer.is_added(cut.ids[index])
        };
        let straddling = cut.offsets.iter().enumerate().find(is_cut);
        Ok(straddling.map_or(common, |(_, &(start, _))| start).min(tag.unwrap_or(common)))
    }

    /// For templates that write earlier turns differently when more follow: the place up to `first`
    /// before which the text ends as the prompt does, or as the prompt does without the last tokens
    /// of what opens the assistant's turn, which may open a thought.
    fn aligned_by_suffix(
        &self,
        prompt: &str,
        before: usize,
        first: usize,
    ) -> Result<usize, Failure> {
        let cut = self.tokenizer.encode_with_offsets(prompt, false)?;
        let opening = self
            .generation_prompt()
            .filter(|opening| prompt.ends_with(opening.as_str()))
            .map_or(0, |opening| opening.len());
        let inside = cut
            .offsets
            .iter()
            .rev()
            .map(|&(start, _)| start)
            .take_while(|&start| start + opening >= prompt.len());
        let ends = std::iter::once(prompt.len()).chain(inside);
        let places =
            || (before + 1..=first).rev().filter(|&place| self.text.is_char_boundary(place));
        let ends = ends.filter(|&end| prompt.is_char_boundary(end));
        let place = ends
            .filter_map(|end| {
                places().find(|&place| prompt[..end].ends_with(&self.text[before..place]))
            })
            .max();
        place.ok_or_else(|| {
            refuse(
                "the chat template writes the turns before an answer differently from the prompt for it, so it cannot be told where the answer begins",
                "use a template with {% generation %} blocks, or put the loss on all tokens",
            )
        })
    }

    /// What opens the assistant's turn after a user's.
    fn generation_prompt(&self) -> Option<String> {
        let user = [Chat::message(Message::new("user", "a").fields())];
        let (open, closed) =
            (self.chat.render(&user, true).ok()?, self.chat.render(&user, false).ok()?);
        open.strip_prefix(closed.as_str()).filter(|prompt| !prompt.is_empty()).map(str::to_owned)
    }

    /// Where the turn ends, and a token that is missing for that.
    fn end(
        &self,
        turn: usize,
        words: &[Words],
        start: usize,
    ) -> Result<(usize, Option<u32>), Failure> {
        let last = words[turn].as_ref().map_or(0, |range| range.end);
        let next = words[turn + 1..]
            .iter()
            .flatten()
            .map(|range| range.start)
            .filter(|&start| start >= last)
            .min()
            .unwrap_or(self.text.len());
        let is_call = self.chat.conversation.messages[turn].has_tool_calls();
        if let Some(stop) = self.stop(last..next, is_call.then_some(start)) {
            return Ok((stop, None));
        }
        if turn + 1 < words.len() {
            // Plain text ends the turn: what stays if nothing follows.
            let alone = self.render(&self.chat.messages()[..=turn], false)?;
            return Ok((self.common_tokens(&alone)?.clamp(last, next), None));
        }
        let append = self
            .next_role()
            .or_else(|| self.tokenizer.eos_token_id().filter(|_| last == self.text.len()));
        Ok((self.text.len(), append))
    }

    /// The end of the special token that ends a turn. The closing of a call may be one, too: there
    /// the token that ends a turn without a call goes first, then one at which generation ends.
    fn stop(&self, range: Range<usize>, call: Option<usize>) -> Option<usize> {
        let Encoded { ids, offsets } = self.encoded;
        let from = offsets.partition_point(|&(start, _)| start < range.start);
        let inside = (from..ids.len()).take_while(|&index| offsets[index].0 < range.end);
        let mut special: Vec<usize> =
            inside.filter(|&index| self.tokenizer.is_special(ids[index])).collect();
        if let Some(first) = call.filter(|_| special.len() > 1) {
            let (end, stops) = (self.plain_end(), self.tokenizer.stop_token_ids());
            let plain = special.iter().find(|&&index| Some(ids[index]) == end);
            if let Some(&stop) =
                plain.or_else(|| special.iter().find(|&&index| stops.contains(&ids[index])))
            {
                return Some(offsets[stop].1);
            }
            // What stands within a call, as a quote of its arguments, does not end it.
            let begin = offsets.partition_point(|&(start, _)| start < first);
            special.retain(|&index| !ids[begin..from].contains(&ids[index]));
        }
        let first = *special.first()?;
        let run = special
            .iter()
            .enumerate()
            .take_while(|&(at, &index)| index == first + at)
            .map(|(_, &index)| index);
        let run: Vec<usize> = run.collect();
        let stop = match call {
            Some(_) => run.last(),
            // Some models end a turn with several tokens, of which the eos token is the last.
            None => run.iter().find(|&&index| Some(ids[index]) == self.tokenizer.eos_token_id()),
        };
        Some(offsets[stop.copied().unwrap_or(first)].1)
    }

    /// The special token that ends a turn of plain text.
    fn plain_end(&self) -> Option<u32> {
        let mark = marks::mark(0);
        let turns = [("user", "a"), ("assistant", mark.as_str())]
            .map(|(role, text)| Chat::message(Message::new(role, text).fields()));
        let text = self.chat.render(&turns, false).ok()?;
        let tail = &text[text.rfind(&mark)? + mark.len()..];
        self.tokenizer
            .encode(tail, false)
            .ok()?
            .into_iter()
            .find(|&id| self.tokenizer.is_special(id))
    }

    /// The special token that a user's turn would begin with, right after this text.
    fn next_role(&self) -> Option<u32> {
        let number = self.chat.messages().len();
        let user = Message::new("user", marks::mark(number));
        let messages: Vec<_> =
            self.chat.messages().iter().cloned().chain([Chat::message(user.fields())]).collect();
        let longer = self.chat.render(&messages, false).ok()?;
        let header = longer.strip_prefix(self.text)?;
        let header = &header[..header.find(&marks::mark(number))?];
        let first = *self.tokenizer.encode(header.trim_start(), false).ok()?.first()?;
        self.tokenizer.is_special(first).then_some(first)
    }

    /// What `{% generation %}` blocks leave of a turn. A block that takes in the header, as
    /// SmolLM3's, says no more than which turns are trained; one that ends before the stop token
    /// leaves it to be learned all the same.
    fn within_blocks(&self, span: Range<usize>, last: usize) -> Vec<Range<usize>> {
        let Some(blocks) = self.blocks.filter(|blocks| !blocks.is_empty()) else {
            return vec![span];
        };
        let inside: Vec<_> = blocks
            .iter()
            .filter(|block| block.start < span.end && span.start < block.end)
            .collect();
        let mut parts: Vec<_> = inside
            .iter()
            .map(|block| block.start.max(span.start)..block.end.min(span.end))
            .collect();
        if let Some(part) = parts.last_mut()
            && part.end >= last
        {
            part.end = span.end;
        }
        parts
    }

    /// A conversation that the template refuses is that record's fault.
    fn render(
        &self,
        messages: &[minijinja::Value],
        add_generation_prompt: bool,
    ) -> Result<String, Failure> {
        self.chat.render(messages, add_generation_prompt).map_err(faulty)
    }
}

fn refuse(problem: &str, remedy: &str) -> Failure {
    Failure::Record(Fault { problem: problem.into(), remedy: remedy.into() })
}

/// Bytes at which two texts begin alike, up to a border of characters.
fn common_prefix(one: &str, other: &str) -> usize {
    let count = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    one.floor_char_boundary(count)
}

/// Bytes at which two texts end alike, from a border of characters on.
fn common_suffix(one: &str, other: &str) -> usize {
    let count = one.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
    one.len() - one.ceil_char_boundary(one.len() - count)
}

#[cfg(test)]
mod tests;
