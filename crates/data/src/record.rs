//! What one record of a source says.

use serde_json::{Map, Value};

use crate::options::LossOn;
use crate::source::Format;
use crate::template::Message;

/// A document before tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Conversation(Vec<Message>),
    Completion { prompt: String, completion: String },
    Text(String),
}

/// Why a record cannot be used, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

pub(crate) fn fault<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { problem: problem.into(), remedy: remedy.into() })
}

/// The columns of tables that are read.
pub(crate) const COLUMNS: [&str; 5] = ["messages", "conversations", "prompt", "completion", "text"];

pub(crate) const SHAPES: &str = "a record has `messages`, `conversations`, `prompt` and `completion`, or `text`";

impl Record {
    /// Reads one JSON record; `format` narrows the shapes, `loss_on` decides whether an assistant must speak.
    pub(crate) fn from_json(bytes: &[u8], format: Format, loss_on: LossOn) -> Result<Self, Fault> {
        let value: Value = match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(error) => {
                return fault(format!("broken JSON ({error})"), "write one whole record on each line, or one array of records");
            }
        };
        let Value::Object(fields) = value else {
            return fault(format!("a record is {} and not an object", kind(&value)), SHAPES);
        };
        Self::from_fields(fields, format, loss_on)
    }

    /// Reads a row of a table, whose columns are called as the keys of a JSON record. Turns are a list there too, or JSON in a text.
    pub(crate) fn from_row(mut fields: Map<String, Value>, format: Format, loss_on: LossOn) -> Result<Self, Fault> {
        for key in ["messages", "conversations"] {
            if let Some(Value::String(text)) = fields.get(key) {
                match serde_json::from_str(text) {
                    Ok(turns) => fields.insert(key.into(), turns),
                    Err(error) => return fault(format!("`{key}` is no JSON ({error})"), "write the turns as a JSON list"),
                };
            }
        }
        Self::from_fields(fields, format, loss_on)
    }

    fn from_fields(mut fields: Map<String, Value>, format: Format, loss_on: LossOn) -> Result<Self, Fault> {
        let record = if let Some(messages) = fields.remove("messages") {
            Self::Conversation(turns(messages, "messages", "role", "content")?)
        } else if let Some(turns_given) = fields.remove("conversations") {
            Self::Conversation(turns(turns_given, "conversations", "from", "value")?)
        } else if fields.contains_key("prompt") && fields.contains_key("completion") {
            let prompt = string(&mut fields, "prompt")?;
            let completion = string(&mut fields, "completion")?;
            if completion.is_empty() {
                return fault("the completion is empty", "remove the record, or skip bad lines");
            }
            Self::Completion { prompt, completion }
        } else if fields.contains_key("text") {
            Self::text(string(&mut fields, "text")?)?
        } else {
            let keys: Vec<String> = fields.keys().map(|key| format!("`{key}`")).collect();
            let found = if keys.is_empty() { "nothing".into() } else { keys.join(", ") };
            return fault(format!("a record of unknown shape: it has {found}"), SHAPES);
        };
        record.check(format, loss_on)?;
        Ok(record)
    }

    /// A paragraph of a text file.
    pub(crate) fn from_text(bytes: &[u8]) -> Result<Self, Fault> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::text(text.to_owned()),
            Err(error) => fault(format!("no UTF-8 ({error})"), "save the file as UTF-8"),
        }
    }

    fn text(text: String) -> Result<Self, Fault> {
        if text.trim().is_empty() {
            return fault("the text is empty", "remove the record, or skip bad lines");
        }
        Ok(Self::Text(text))
    }

    fn check(&self, format: Format, loss_on: LossOn) -> Result<(), Fault> {
        match (self, format) {
            (Self::Text(_), Format::Conversations) => {
                return fault("a record with `text` in a source of conversations", "set its format to text or auto");
            }
            (Self::Conversation(_) | Self::Completion { .. }, Format::Text) => {
                return fault("a conversation in a source of texts", "set its format to conversations or auto");
            }
            _ => {}
        }
        if let Self::Conversation(messages) = self {
            if messages.is_empty() {
                return fault("the conversation is empty", "remove the record, or skip bad lines");
            }
            if loss_on == LossOn::Assistant && !messages.iter().any(|message| message.role == "assistant") {
                return fault(
                    "the conversation has no assistant turn, so nothing in it would be trained",
                    "remove the record, skip bad lines, or put the loss on all tokens",
                );
            }
        }
        Ok(())
    }
}

fn turns(value: Value, list: &str, role_key: &str, content_key: &str) -> Result<Vec<Message>, Fault> {
    let Value::Array(turns) = value else {
        return fault(format!("`{list}` is {} and not a list", kind(&value)), "give a list of turns");
    };
    let read = |(index, turn): (usize, Value)| {
        let remedy = format!("a turn is {{\"{role_key}\": ..., \"{content_key}\": ...}}, both of them strings");
        let Value::Object(mut fields) = turn else {
            return fault(format!("turn {} of `{list}` is {}", index + 1, kind(&turn)), remedy);
        };
        let mut field = |key: &str| match fields.remove(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => fault(format!("`{key}` of turn {} is {}", index + 1, kind(&other)), remedy.clone()),
            None => fault(format!("turn {} has no `{key}`", index + 1), remedy.clone()),
        };
        let (role, content) = (field(role_key)?, field(content_key)?);
        let role = if list == "conversations" { share_gpt_role(role)? } else { role };
        Ok(Message { role, content })
    };
    turns.into_iter().enumerate().map(read).collect()
}

fn share_gpt_role(from: String) -> Result<String, Fault> {
    Ok(match from.as_str() {
        "human" | "user" => "user",
        "gpt" | "assistant" => "assistant",
        "system" => "system",
        _ => return fault(format!("a turn is from {from:?}"), "turns are from `human`, `gpt` or `system`"),
    }
    .into())
}

fn string(fields: &mut Map<String, Value>, key: &str) -> Result<String, Fault> {
    match fields.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => fault(format!("`{key}` is {} and not a string", kind(&other)), "give plain text"),
        None => fault(format!("there is no `{key}`"), SHAPES),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Record, Fault> {
        Record::from_json(json.as_bytes(), Format::Auto, LossOn::Assistant)
    }

    fn problem(json: &str) -> String {
        read(json).unwrap_err().problem
    }

    #[test]
    fn reads_the_four_shapes() {
        let expected = Record::Conversation(vec![Message::new("user", "a"), Message::new("assistant", "b")]);
        let messages = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"id":1}"#;
        assert_eq!(read(messages), Ok(expected.clone()));
        assert_eq!(read(r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#), Ok(expected));
        assert_eq!(read(r#"{"prompt":"a","completion":"b"}"#), Ok(Record::Completion { prompt: "a".into(), completion: "b".into() }));
        assert_eq!(read(r#"{"text":"a"}"#), Ok(Record::Text("a".into())));
    }

    #[test]
    fn names_what_is_wrong() {
        assert!(problem(r#"{"text": "#).contains("broken JSON"));
        assert!(problem("3").contains("a number"));
        assert!(problem(r#"{"query":"a","answer":"b"}"#).contains("`query`, `answer`"));
        assert!(problem(r#"{"messages":[]}"#).contains("empty"));
        assert!(problem(r#"{"messages":[{"role":"user","content":"a"}]}"#).contains("no assistant turn"));
        assert!(problem(r#"{"messages":[{"role":"user","content":null}]}"#).contains("`content` of turn 1 is null"));
        assert!(problem(r#"{"conversations":[{"from":"bard","value":"a"}]}"#).contains("\"bard\""));
        assert!(problem(r#"{"text":" "}"#).contains("empty"));
        assert!(problem(r#"{"prompt":"a","completion":""}"#).contains("empty"));
    }

    #[test]
    fn a_format_narrows_the_shapes() {
        let text = Record::from_json(br#"{"text":"a"}"#, Format::Conversations, LossOn::All);
        assert!(text.unwrap_err().problem.contains("source of conversations"));
        let pair = Record::from_json(br#"{"prompt":"a","completion":"b"}"#, Format::Text, LossOn::All);
        assert!(pair.unwrap_err().problem.contains("source of texts"));
    }

    #[test]
    fn a_conversation_without_assistant_may_be_trained_as_a_whole() {
        let json = br#"{"messages":[{"role":"user","content":"a"}]}"#;
        assert!(Record::from_json(json, Format::Auto, LossOn::All).is_ok());
    }
}
