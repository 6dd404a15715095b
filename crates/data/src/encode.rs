//! Records to samples: which tokens, and which of them are trained.

use crate::error::Error;
use crate::options::LossOn;
use crate::record::{Fault, Record};
use crate::sample::Sample;
use crate::template::{ChatTemplate, Message, Turns};
use crate::tokenizer::{Encoded, Tokenizer};

/// Turns records into samples, not yet truncated.
pub(crate) struct Encoder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) template: Option<&'a ChatTemplate>,
    pub(crate) loss_on: LossOn,
    /// Tokens that will be kept; what lies behind them need not be marked.
    pub(crate) sequence_length: usize,
}

/// A failure of the record, which may be skipped, or of the set-up, which would fail every other record too.
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

impl Encoder<'_> {
    pub(crate) fn encode(&self, record: &Record) -> Result<Sample, Failure> {
        match record {
            Record::Conversation(messages) => self.conversation(messages),
            Record::Completion { prompt, completion } => Ok(self.completion(prompt, completion)?),
            Record::Text(text) => Ok(self.text(text)?),
        }
    }

    /// Tokens of a text that matter: those that will be kept, and one that tells whether there are more.
    fn wanted(&self) -> usize {
        self.sequence_length.saturating_add(1)
    }

    /// A text is trained as a whole, and ends with the eos token.
    fn text(&self, text: &str) -> Result<Sample, Error> {
        let mut tokens = self.tokenizer.encode_up_to(text, true, self.wanted())?.ids;
        self.close(&mut tokens);
        let trained = vec![true; tokens.len()];
        Ok(Sample::single(tokens, trained))
    }

    /// Prompt and completion are tokenised apart, as they are when the model is asked, so that no token belongs to
    /// both; the completion and the eos token behind it are trained.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Sample, Error> {
        let mut tokens = self.tokenizer.encode_up_to(prompt, true, self.wanted())?.ids;
        if self.tokenizer.eos_token_id().is_some() && tokens.last().copied() == self.tokenizer.eos_token_id() {
            tokens.pop();
        }
        let prompt_tokens = tokens.len();
        tokens.extend(self.tokenizer.encode_up_to(completion, false, self.wanted())?.ids);
        self.close(&mut tokens);
        let trained = (0..tokens.len()).map(|i| self.loss_on == LossOn::All || i >= prompt_tokens).collect();
        Ok(Sample::single(tokens, trained))
    }

    fn close(&self, tokens: &mut Vec<u32>) {
        if let Some(eos) = self.tokenizer.eos_token_id()
            && tokens.last() != Some(&eos)
        {
            tokens.push(eos);
        }
    }

    fn conversation(&self, messages: &[Message]) -> Result<Sample, Failure> {
        let template = self.template.ok_or_else(|| Error::Template {
            problem: "the data hold conversations, but the model has none".into(),
            remedy: "name a chat template, or use texts or prompts with completions".into(),
        })?;
        let turns = template.turns(messages);
        let whole = render(&turns, messages.len(), false)?;
        let encoded = self.tokenizer.encode_up_to(&whole, false, self.wanted())?;
        let mut trained = vec![self.loss_on == LossOn::All; encoded.ids.len()];
        if self.loss_on == LossOn::Assistant {
            // Each turn renders the conversation up to it: a long one that is cut off early would cost its square.
            let kept = encoded.offsets.get(self.sequence_length).map_or(whole.len(), |&(start, _)| start);
            for (index, message) in messages.iter().enumerate() {
                if message.role == "assistant" {
                    let span = assistant_span(&turns, index, &whole)?;
                    self.train(&mut trained, &encoded, &span);
                    if span.end >= kept {
                        break;
                    }
                }
            }
        }
        Ok(Sample::single(encoded.ids, trained))
    }

    /// Marks the tokens that begin inside `span` (a token that begins in the prompt is not the assistant's to say).
    ///
    /// The last of them is the special token that ends the turn. White space that the template writes behind it, as
    /// ChatML's newline, is not trained: generation has stopped by then. Where a template ends turns without a special
    /// token, that white space is the only sign of the end, and is trained.
    fn train(&self, trained: &mut [bool], encoded: &Encoded, span: &Span<'_>) {
        let begins_inside = |&(start, end): &(usize, usize)| start < end && span.start <= start && start < span.end;
        let Some(first) = encoded.offsets.iter().position(begins_inside) else { return };
        let count = encoded.offsets[first..].iter().take_while(|&offsets| begins_inside(offsets)).count();
        let mut last = first + count;
        if let Some(special) = encoded.ids[first..last].iter().rposition(|&id| self.tokenizer.is_special(id)) {
            let behind = encoded.offsets[first + special].1.min(span.end);
            if span.whole[behind..span.end].trim().is_empty() {
                last = first + special + 1;
            }
        }
        trained[first..last].fill(true);
    }
}

/// Bytes of the whole text.
struct Span<'a> {
    whole: &'a str,
    start: usize,
    end: usize,
}

/// What the assistant writes in message `index`: from the end of the prompt that would be put to it, to the end of the
/// conversation so far.
fn assistant_span<'a>(turns: &Turns<'_>, index: usize, whole: &'a str) -> Result<Span<'a>, Failure> {
    if index == 0 {
        return Err(Failure::Record(Fault {
            problem: "the conversation begins with the assistant, which no prompt precedes".into(),
            remedy: "begin it with a user or system turn, or put the loss on all tokens".into(),
        }));
    }
    let prompt = render(turns, index, true)?;
    let answered = render(turns, index + 1, false)?;
    if !(answered.starts_with(&prompt) && whole.starts_with(&answered)) {
        return Err(Failure::SetUp(Error::Template {
            problem: format!("it writes turn {} differently when more turns follow, so the assistant's tokens cannot be told", index + 1),
            remedy: "use a template whose text for the first turns is a prefix of the whole, or put the loss on all \
                     tokens"
                .into(),
        }));
    }
    Ok(Span { whole, start: prompt.len(), end: answered.len() })
}

/// A conversation that the template refuses is that record's fault.
fn render(turns: &Turns<'_>, count: usize, open: bool) -> Result<String, Failure> {
    turns.render(count, open).map_err(|error| match error {
        Error::Template { problem, remedy } => Failure::Record(Fault { problem, remedy }),
        other => Failure::SetUp(other),
    })
}

#[cfg(test)]
mod tests;
