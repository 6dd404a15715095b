//! Turns as OpenAI, transformers, ShareGPT and LLaMA-Factory write them.

use serde_json::{Map, Value, json};

use super::{Fault, fault, kind};
use crate::message::Message;

/// Keys that say whether the loss falls on a turn.
const TRAINED_KEYS: [&str; 3] = ["weight", "train", "loss"];

/// Reads the list of turns under `list`.
pub(super) fn read(value: Value, list: &str) -> Result<Vec<Message>, Fault> {
    let Value::Array(turns) = value else {
        return fault(
            format!("`{list}` is {} and not a list", kind(&value)),
            "give a list of turns",
        );
    };
    turns
        .into_iter()
        .enumerate()
        .map(|(index, turn)| Turn { list, number: index + 1 }.read(turn))
        .collect()
}

/// Where a turn stands, for messages.
struct Turn<'a> {
    list: &'a str,
    number: usize,
}

impl Turn<'_> {
    fn read(&self, turn: Value) -> Result<Message, Fault> {
        let Value::Object(mut fields) = turn else {
            return fault(
                format!("turn {} of `{}` is {}", self.number, self.list, kind(&turn)),
                REMEDY,
            );
        };
        // Tables and `datasets` fill what a turn has not with null. A content of null says that
        // there is none.
        fields.retain(|key, value| !value.is_null() || key == "content");
        let trained = self.trained(&mut fields)?;
        self.share_gpt(&mut fields)?;
        let role = match fields.get("role") {
            Some(Value::String(role)) => role.clone(),
            Some(other) => {
                return fault(format!("`role` of turn {} is {}", self.number, kind(other)), REMEDY);
            }
            None => return fault(format!("turn {} has no `role`", self.number), REMEDY),
        };
        if trained == Some(true) && role != "assistant" {
            let problem = format!(
                "turn {} is the {role}'s and shall be trained, but only the assistant's turns can be",
                self.number
            );
            return fault(
                problem,
                "remove its `weight`, `train` or `loss`, or set [data] loss_on to \"all\"",
            );
        }
        self.function_call(&mut fields)?;
        self.check(&role, &fields)?;
        let mut message = Message::from_fields(fields);
        message.trained = trained;
        Ok(message)
    }

    /// Takes out what says whether the turn is trained.
    fn trained(&self, fields: &mut Map<String, Value>) -> Result<Option<bool>, Fault> {
        let mut found = None;
        for key in TRAINED_KEYS {
            let Some(value) = fields.shift_remove(key) else { continue };
            let trained = match &value {
                Value::Bool(trained) => Some(*trained),
                Value::Number(weight) => [(0.0, false), (1.0, true)]
                    .iter()
                    .find(|(number, _)| weight.as_f64() == Some(*number))
                    .map(|&(_, trained)| trained),
                _ => None,
            };
            match trained {
                Some(trained) if found.is_none_or(|found| found == trained) => {
                    found = Some(trained)
                }
                Some(_) => {
                    return fault(
                        format!(
                            "turn {} is trained and not trained at once (`{key}` is {value})",
                            self.number
                        ),
                        "give one of them",
                    );
                }
                None => {
                    return fault(
                        format!("`{key}` of turn {} is {value}", self.number),
                        "write 0 or false to leave the turn out of the loss, 1 or true to keep it",
                    );
                }
            }
        }
        Ok(found)
    }

    /// Turns of ShareGPT say `from` and `value`, with roles of their own.
    fn share_gpt(&self, fields: &mut Map<String, Value>) -> Result<(), Fault> {
        let is_share_gpt = self.list != "messages"
            || (fields.contains_key("from") && !fields.contains_key("role"));
        for (key, names) in [("content", ["value", "text"].as_slice()), ("role", &["from"])] {
            for name in names {
                if !fields.contains_key(key)
                    && let Some(value) = fields.shift_remove(*name)
                {
                    // First, as templates that write a whole turn as JSON expect it.
                    fields.shift_insert(0, key.into(), value);
                }
            }
        }
        let Some(Value::String(role)) = fields.get("role") else { return Ok(()) };
        let role = match role.as_str() {
            "human" | "prompter" => "user",
            "gpt" | "chatgpt" | "bing" | "bard" | "model" | "bot" if is_share_gpt => "assistant",
            "observation" | "function_response" => "tool",
            "function_call" => return self.called(fields),
            _ => return self.known_role(role),
        };
        fields.insert("role".into(), role.into());
        Ok(())
    }

    /// Lists that are no `messages` have a closed set of roles: another one is most likely a
    /// mistake.
    fn known_role(&self, role: &str) -> Result<(), Fault> {
        const KNOWN: [&str; 6] = ["user", "assistant", "system", "tool", "developer", "function"];
        if self.list == "messages" || KNOWN.contains(&role) {
            return Ok(());
        }
        fault(
            format!("turn {} is from {role:?}", self.number),
            "turns are from `human`, `gpt`, `system`, `tool`, `function_call` or `observation`",
        )
    }

    /// A turn from `function_call` has one call, or a list of them, as JSON in its text.
    fn called(&self, fields: &mut Map<String, Value>) -> Result<(), Fault> {
        let text = match fields.get("content") {
            Some(Value::String(text)) => text.as_str(),
            _ => "",
        };
        let calls = match serde_json::from_str(text) {
            Ok(Value::Array(calls)) => calls,
            Ok(call @ Value::Object(_)) => vec![call],
            _ => {
                let problem = format!(
                    "turn {} is from `function_call`, but its text is no call in JSON",
                    self.number
                );
                return fault(
                    problem,
                    "write {\"name\": ..., \"arguments\": {...}}, or a list of those",
                );
            }
        };
        let calls =
            calls.into_iter().map(|call| self.wrapped(call)).collect::<Result<Vec<_>, _>>()?;
        fields.insert("role".into(), "assistant".into());
        fields.insert("content".into(), Value::Null);
        fields.insert("tool_calls".into(), Value::Array(calls));
        Ok(())
    }

    /// The older form of OpenAI's: one call under `function_call`.
    fn function_call(&self, fields: &mut Map<String, Value>) -> Result<(), Fault> {
        if let Some(call) = fields.shift_remove("function_call") {
            if fields.contains_key("tool_calls") {
                return fault(
                    format!("turn {} has both `function_call` and `tool_calls`", self.number),
                    "give one of them",
                );
            }
            let call = self.wrapped(call)?;
            fields.insert("tool_calls".into(), Value::Array(vec![call]));
        }
        Ok(())
    }

    /// A bare call as templates read calls.
    fn wrapped(&self, call: Value) -> Result<Value, Fault> {
        let Value::Object(mut call) = call else {
            return fault(
                format!("a call of turn {} is {}", self.number, kind(&call)),
                "write {\"name\": ..., \"arguments\": {...}}",
            );
        };
        if call.contains_key("function") {
            return Ok(Value::Object(call));
        }
        if !call.get("name").is_some_and(Value::is_string) {
            return fault(
                format!("a call of turn {} has no `name`", self.number),
                "write {\"name\": ..., \"arguments\": {...}}",
            );
        }
        if let Some(Value::String(text)) = call.get("arguments")
            && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
        {
            call.insert("arguments".into(), arguments);
        }
        Ok(json!({ "type": "function", "function": call }))
    }

    fn check(&self, role: &str, fields: &Map<String, Value>) -> Result<(), Fault> {
        let is_something = |key: &str| match fields.get(key) {
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::String(text)) => !text.trim().is_empty(),
            _ => false,
        };
        let says_more = ["tool_calls", "reasoning_content", "thinking", "reasoning"]
            .iter()
            .any(|key| is_something(key));
        match fields.get("content") {
            Some(Value::String(_)) => {}
            Some(Value::Array(parts)) => parts.iter().try_for_each(|part| self.part(part))?,
            None | Some(Value::Null) if role == "assistant" && says_more => {}
            None => return fault(format!("turn {} has no `content`", self.number), REMEDY),
            Some(other) => {
                return fault(
                    format!("`content` of turn {} is {}", self.number, kind(other)),
                    REMEDY,
                );
            }
        }
        match fields.get("tool_calls") {
            None => Ok(()),
            Some(Value::Array(calls)) if calls.iter().all(Value::is_object) => Ok(()),
            Some(other) => fault(
                format!("`tool_calls` of turn {} is {}", self.number, kind(other)),
                "give a list of calls",
            ),
        }
    }

    /// Of contents in parts, texts are read.
    fn part(&self, part: &Value) -> Result<(), Fault> {
        match part.get("type").and_then(Value::as_str) {
            Some("text") if part.get("text").is_some_and(Value::is_string) => Ok(()),
            Some(other) => fault(
                format!("turn {} has a part of type {other:?}", self.number),
                "parts are {\"type\": \"text\", \"text\": ...}: images and sound are not read",
            ),
            None => fault(
                format!("a part of turn {} has no `type`", self.number),
                "parts are {\"type\": \"text\", \"text\": ...}",
            ),
        }
    }
}

const REMEDY: &str =
    "a turn is {\"role\": ..., \"content\": ...} (or `from` and `value`), both of them strings";
