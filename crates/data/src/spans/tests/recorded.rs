//! Conversations as transformers renders them with templates of 14 models, and the bytes that an
//! independent computation trains (`ci/data_fixture.py`).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::encode::{Encoder, Failure};
use crate::message::Conversation;
use crate::options::LossOn;
use crate::record::{Reader, Record};
use crate::source::Format;
use crate::template::ChatTemplate;
use crate::tokenizer::tests::parts;
use crate::tokenizer::{BpeParts, Tokenizer};

#[derive(Deserialize)]
struct Recorded {
    conversations: BTreeMap<String, Map<String, Value>>,
    templates: BTreeMap<String, Template>,
}

#[derive(Deserialize)]
struct Template {
    source: String,
    special_tokens: Vec<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    /// Whether contents are given in parts.
    parts: bool,
    /// The begin of the text's SHA-256, then trained bytes; null where transformers refuses the
    /// conversation.
    expected: BTreeMap<String, Option<Vec<Value>>>,
}

/// Bytes, and special tokens.
fn tokenizer(special: &[String], eos: Option<&str>) -> Tokenizer {
    let bytes = parts("smollm", &[]);
    let tokens: Vec<String> =
        special.iter().cloned().chain(bytes.tokens[3..].iter().cloned()).collect();
    let eos = eos.and_then(|eos| special.iter().position(|token| token == eos)).map(|id| id as u32);
    let special = (0..tokens.len()).map(|id| id < special.len()).collect();
    Tokenizer::from_bpe(BpeParts { tokens, special, bos: None, eos, unk: None, pad: None, ..bytes })
        .unwrap()
}

fn in_parts(record: &Map<String, Value>) -> Map<String, Value> {
    let mut record = record.clone();
    for message in record["messages"].as_array_mut().unwrap() {
        if let Some(Value::String(text)) = message.get("content") {
            message["content"] = json!([{"type": "text", "text": text}]);
        }
    }
    record
}

/// The text, and which of its bytes are trained.
fn trained(
    template: &Template,
    chat: &ChatTemplate,
    tokenizer: &Tokenizer,
    record: &Map<String, Value>,
) -> Result<(String, Vec<[usize; 2]>), String> {
    let record = if template.parts { in_parts(record) } else { record.clone() };
    let (record, _) =
        Reader::default().read_fields(record, Format::Auto).map_err(|fault| fault.problem)?;
    let Record::Conversation(conversation) = record else { panic!() };
    let text = chat
        .render_conversation(&Conversation { prompt_turns: 0, ..conversation.clone() }, false)
        .map_err(|error| error.to_string())?;
    let encoder = Encoder {
        tokenizer,
        template: Some(chat),
        loss_on: LossOn::Assistant,
        sequence_length: usize::MAX,
        text_length: usize::MAX,
    };
    let (sample, _) =
        encoder.encode(Record::Conversation(conversation)).map_err(|failure| match failure {
            Failure::Record(fault) => fault.problem,
            Failure::SetUp(error) => error.to_string(),
        })?;
    let (mut at, mut spans): (usize, Vec<[usize; 2]>) = (0, Vec::new());
    for (&id, &trained) in sample.tokens.iter().zip(&sample.trained) {
        let length = if (id as usize) < template.special_tokens.len() {
            template.special_tokens[id as usize].len()
        } else {
            1
        };
        if trained && at < text.len() {
            match spans.last_mut() {
                Some([_, end]) if *end == at => *end += length,
                _ => spans.push([at, at + length]),
            }
        }
        at += length;
    }
    Ok((text, spans))
}

/// No prompt says where this turn begins: the header of its template may end before its `<think>`
/// or after it.
const BEGINS: (&str, &str) = ("nemotron_3_nano", "begins with the assistant");

#[test]
fn masks_are_those_of_an_independent_computation() {
    let recorded: Recorded =
        serde_json::from_str(include_str!("../../../tests/fixtures/conversations.json")).unwrap();
    let mut different = Vec::new();
    let (mut equal, mut refused) = (0, 0);
    for (name, template) in &recorded.templates {
        let tokenizer = tokenizer(&template.special_tokens, template.eos_token.as_deref());
        let chat = ChatTemplate::new(
            &template.source,
            template.bos_token.as_deref(),
            template.eos_token.as_deref(),
        )
        .unwrap();
        for (case, expected) in &template.expected {
            let Some(expected) = expected else { continue };
            let mut spans: Vec<[usize; 2]> = expected[1..]
                .iter()
                .map(|span| serde_json::from_value(span.clone()).unwrap())
                .collect();
            spans.dedup_by(|next, span| {
                span[1] == next[0] && {
                    span[1] = next[1];
                    true
                }
            });
            match trained(template, &chat, &tokenizer, &recorded.conversations[case]) {
                Ok((text, found)) => {
                    let hash: String = Sha256::digest(&text)
                        .iter()
                        .take(6)
                        .map(|byte| format!("{byte:02x}"))
                        .collect();
                    if hash != expected[0].as_str().unwrap()
                        && case.contains("part")
                        && !template.parts
                    {
                        // Python would print the list of parts.
                        refused += 1;
                    } else if hash != expected[0].as_str().unwrap() {
                        different.push(format!("{name}, {case}: another text"));
                    } else if found != spans && (name.as_str(), case.as_str()) != BEGINS {
                        let shown = |spans: &[[usize; 2]]| {
                            spans
                                .iter()
                                .map(|&[a, b]| {
                                    text.get(a..b.min(text.len())).unwrap_or("?").to_owned()
                                })
                                .collect::<Vec<_>>()
                        };
                        different.push(format!(
                            "{name}, {case}: {:?} instead of {:?}",
                            shown(&found),
                            shown(&spans)
                        ));
                    } else {
                        equal += 1;
                    }
                }
                // Calls that a template drops would teach the model to say nothing in their place.
                Err(error) if error.contains("does not write") => refused += 1,
                // Nothing to train is no difference.
                Err(_) if spans.is_empty() => equal += 1,
                Err(error) => different.push(format!("{name}, {case}: {error}")),
            }
        }
    }
    assert!(
        different.is_empty(),
        "{equal} equal, {refused} refused, {} different:\n{}",
        different.len(),
        different.join("\n")
    );
}

#[test]
fn a_quote_of_special_tokens_does_not_end_a_call() {
    // As Gemma 4: texts of arguments stand between special tokens, and what ends a call ends
    // nothing else.
    let source = "{% for m in messages %}{% if m.role != 'tool' %}{{ '<turn>' + m.role + ' ' }}{% endif %}{% for c in m.tool_calls or [] %}{{ c.function.name + '{' }}\
        {% for key, text in c.function.arguments.items() %}{{ key + ':<q>' + text + '<q>' }}{% endfor %}{{ '}<called><answer>' }}{% endfor %}\
        {{ m.content or '' }}{% if not m.tool_calls %}<ends>{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<turn>assistant ' }}{% endif %}";
    let template = Template {
        source: source.into(),
        special_tokens: ["<turn>", "<q>", "<called>", "<answer>", "<ends>"]
            .map(str::to_owned)
            .into(),
        bos_token: None,
        eos_token: None,
        parts: false,
        expected: BTreeMap::new(),
    };
    let chat = ChatTemplate::new(source, None, None).unwrap();
    let call = json!([{"function": {"name": "f", "arguments": {"lake": "Como"}}}]);
    let record = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": call}, {"role": "tool", "content": "40"},
    ]});
    let (text, spans) = trained(
        &template,
        &chat,
        &tokenizer(&template.special_tokens, None),
        record.as_object().unwrap(),
    )
    .unwrap();
    let written: Vec<&str> = spans.iter().map(|&[start, end]| &text[start..end]).collect();
    assert_eq!(written, ["f{lake:<q>Como<q>}<called><answer>"]);
}
