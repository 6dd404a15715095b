//! Records to samples: which tokens, and which of them are trained.

use crate::error::Error;
use crate::message::Conversation;
use crate::options::LossOn;
use crate::record::{Fault, Record};
use crate::sample::Sample;
use crate::spans::{Aligned, Span};
use crate::template::ChatTemplate;
use crate::tokenizer::{Encoded, Tokenizer};

/// Turns records into samples, not yet truncated.
pub(crate) struct Encoder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: Option<&'a ChatTemplate>,
    pub(crate) loss_on: LossOn,
    /// Tokens of a conversation or a completion that will be kept; what comes after them need not
    /// be marked.
    pub(crate) sequence_length: usize,
    /// Tokens of a text that will be kept.
    pub(crate) text_length: usize,
}

/// A sample, and what of its record the chat template does not write.
pub(crate) type Encoding = (Sample, Vec<String>);

/// A failure of the record, which may be skipped, or of the set-up, which would fail every other
/// record too.
pub(crate) enum Failure {
    Record(Fault),
    SetUp(Error),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Record(fault)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::SetUp(error)
    }
}

/// A conversation that the template refuses is its record's fault.
pub(crate) fn faulty(error: Error) -> Failure {
    match error {
        Error::Template { problem, remedy } => Failure::Record(Fault { problem, remedy }),
        other => Failure::SetUp(other),
    }
}

impl Encoder<'_> {
    pub(crate) fn encode(&self, record: Record) -> Result<Encoding, Failure> {
        match record {
            Record::Conversation(conversation) => self.conversation(conversation),
            Record::Completion { prompt, completion } => {
                Ok((self.completion(&prompt, &completion)?, Vec::new()))
            }
            Record::Text(text) => Ok((self.text(&text)?, Vec::new())),
        }
    }

    /// Tokens of a record that matter: those that will be kept, and one that tells whether there
    /// are more.
    fn wanted(&self) -> usize {
        self.sequence_length.saturating_add(1)
    }

    /// A text is trained as a whole, and ends with the eos token. A blank one has nothing to train.
    fn text(&self, text: &str) -> Result<Sample, Error> {
        if text.trim().is_empty() {
            return Ok(Sample::single(Vec::new(), Vec::new()));
        }
        let mut tokens =
            self.tokenizer.ids_up_to(text, true, self.text_length.saturating_add(1))?;
        self.close(&mut tokens);
        let trained = vec![true; tokens.len()];
        Ok(Sample::single(tokens, trained))
    }

    /// Prompt and completion are tokenised apart, as they are when the model is asked, so that no
    /// token belongs to both; the completion and the eos token after it are trained.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sample, Error> {
        let mut tokens = self.tokenizer.encode_up_to(prompt, true, self.wanted())?.ids;
        if self.tokenizer.eos_token_id().is_some()
            && tokens.last().copied() == self.tokenizer.eos_token_id()
        {
            tokens.pop();
        }
        let prompt_tokens = tokens.len();
        tokens.extend(match prompt.is_empty() {
            true => self.tokenizer.encode_up_to(completion, false, self.wanted())?.ids,
            false => self.tokenizer.encode_continuation(completion, self.wanted())?,
        });
        self.close(&mut tokens);
        let trained =
            (0..tokens.len()).map(|i| self.loss_on == LossOn::All || i >= prompt_tokens).collect();
        Ok(Sample::single(tokens, trained))
    }

    fn close(&self, tokens: &mut Vec<u32>) {
        if let Some(eos) = self.tokenizer.eos_token_id()
            && tokens.last() != Some(&eos)
        {
            tokens.push(eos);
        }
    }

    fn conversation(&self, conversation: Conversation) -> Result<Encoding, Failure> {
        let template = self.template.ok_or_else(|| Error::Template {
            problem: "the data hold conversations, but the model has none".into(),
            remedy: "name a chat template, or use texts or prompts with completions".into(),
        })?;
        let chat = template.chat(conversation);
        let called = chat.conversation.messages.iter().position(|message| message.has_tool_calls());
        if let Some(turn) = called.filter(|_| !chat.writes_tool_calls()) {
            let problem = format!(
                "turn {} has `tool_calls`, which the chat template does not write",
                turn + 1
            );
            let remedy =
                "use a model or a [model] chat_template that knows tools, or remove the record";
            return Err(Failure::Record(Fault { problem, remedy: remedy.into() }));
        }
        if let Some(turn) = chat.lost_thought() {
            let problem = format!(
                "turn {} has only a thought, which the chat template does not write",
                turn + 1
            );
            return Err(Failure::Record(Fault {
                problem,
                remedy: "give it a `content`, or remove the record".into(),
            }));
        }
        let (text, blocks) = chat.render_whole().map_err(faulty)?;
        let Encoded { mut ids, offsets } =
            self.tokenizer.encode_up_to(&text, false, self.wanted())?;
        let all = self.loss_on == LossOn::All;
        let mut trained = vec![all; ids.len()];
        // Turns whose tokens are cut off need not be found.
        let wanted = offsets.get(self.sequence_length).map_or(text.len(), |&(start, _)| start);
        let encoded = Encoded { ids, offsets };
        let aligned = Aligned {
            chat: &chat,
            tokenizer: self.tokenizer,
            text: &text,
            encoded: &encoded,
            blocks: blocks.as_deref(),
            wanted,
        };
        let is_picked = |turn| {
            if all { chat.conversation.leaves_out(turn) } else { chat.conversation.trains(turn) }
        };
        let (spans, lost) = aligned.spans(is_picked)?;
        for Span { parts, .. } in &spans {
            parts.iter().for_each(|part| {
                encoded.tokens_in(part.start, part.end).for_each(|index| trained[index] = !all)
            });
        }
        ids = encoded.ids;
        if let Some(token) = spans.last().and_then(|span| span.append) {
            ids.push(token);
            trained.push(!all);
        }
        let mut unwritten = chat.unwritten();
        unwritten.extend(
            lost.into_iter()
                .map(|turn| format!("turns of `{}`", chat.conversation.messages[turn].role())),
        );
        unwritten.sort_unstable();
        unwritten.dedup();
        Ok((Sample::single(ids, trained), unwritten))
    }
}

impl Encoded {
    /// The tokens that begin in these bytes: one that begins in the prompt is not the assistant's
    /// to say. Tokens that stand for no byte belong to those around them.
    fn tokens_in(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        let first = self
            .offsets
            .partition_point(|&(from, to)| from < start || (from == start && to <= start));
        let after = self.offsets.partition_point(|&(from, _)| from < end);
        first..after.max(first)
    }
}

#[cfg(test)]
pub(crate) mod tests;
