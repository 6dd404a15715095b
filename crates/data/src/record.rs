//! What one record of a source says.

mod keys;
mod pairs;
mod turns;

use std::sync::Arc;

use serde_json::{Map, Value};

pub(crate) use keys::{Columns, is_worth_naming};

use crate::error::{Error, Result};
use crate::jinja::{self, Program};
use crate::json;
use crate::message::Conversation;
use crate::options::{LossOn, Options, Pairs};
use crate::source::Format;

/// A document before tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Conversation(Conversation),
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

pub(crate) const SHAPES: &str = "a record has `messages`, `conversations`, `prompt` and `completion`, `instruction` and `output`, another pair of \
                                 [data] columns, or `text`";

/// How records are read: what of the options concerns them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    pub(crate) columns: Columns,
    pub(crate) pairs: Pairs,
    pub(crate) prompt_template: Option<Arc<Program>>,
    pub(crate) has_chat_template: bool,
    pub(crate) loss_on: LossOn,
    /// Variables of the chat template that every conversation has.
    template_kwargs: Map<String, Value>,
}

/// A record, and the keys that were not read and should be named.
pub(crate) type Read = (Record, Vec<String>);

impl Reader {
    /// # Errors
    /// If a column that is named is not one that is read, or the prompt template does not parse.
    pub(crate) fn new(options: &Options, has_chat_template: bool) -> Result<Self> {
        let parse = |source: &String| match Program::parse(source, chrono::Local::now()) {
            Ok(program) => Ok(Arc::new(program)),
            Err(problem) => Err(Error::Options {
                option: "prompt_template",
                problem: format!("it does not parse ({problem})"),
                remedy: "write a Jinja template such as \"Question: {{ question }}\\nAnswer: \""
                    .into(),
            }),
        };
        let template_kwargs = options.chat_template_kwargs.clone();
        refuse_reserved(&template_kwargs).map_err(|Fault { problem, remedy }| Error::Options {
            option: "chat_template_kwargs",
            problem,
            remedy,
        })?;
        Ok(Self {
            columns: Columns::new(&options.columns)?,
            pairs: options.pairs,
            prompt_template: options.prompt_template.as_ref().map(parse).transpose()?,
            has_chat_template,
            loss_on: options.loss_on,
            template_kwargs,
        })
    }

    /// The columns of a table that are read, by the names that the data have for them.
    pub(crate) fn columns(&self) -> Vec<String> {
        let mut columns = self.columns.all();
        columns.extend(self.prompt_template.iter().flat_map(|template| template.variables()));
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Whether a table with these columns can hold records.
    pub(crate) fn knows(&self, columns: &[&str]) -> bool {
        let has = |ours: &str| columns.contains(&self.columns.theirs(ours));
        ["messages", "conversations", "conversation", "text"].iter().any(|list| has(list))
            || pairs::is_in(has)
    }

    /// Reads a record in JSON.
    pub(crate) fn read_json(&self, bytes: &[u8], format: Format) -> Result<Read, Fault> {
        match json::parse(bytes)? {
            Value::Object(fields) => {
                let mut read = fields.iter().filter(|(key, _)| self.columns.reads(key));
                read.try_for_each(|(_, value)| json::check_digits(value, bytes))?;
                self.read_fields(fields, format)
            }
            other => fault(format!("a record is {} and not an object", kind(&other)), SHAPES),
        }
    }

    /// Reads the keys of a record; `format` narrows the shapes.
    pub(crate) fn read_fields(
        &self,
        mut fields: Map<String, Value>,
        format: Format,
    ) -> Result<Read, Fault> {
        fields.retain(|_, value| !value.is_null());
        self.columns.rename(&mut fields);
        self.read_renamed(fields, format)
    }

    fn read_renamed(&self, mut fields: Map<String, Value>, format: Format) -> Result<Read, Fault> {
        let record = self.shape(&mut fields)?;
        check(&record, format, self.loss_on)?;
        let unread = fields
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| keys::is_worth_naming(key))
            .collect();
        Ok((record, unread))
    }

    /// Reads a row of a table, whose columns are called as the keys of a JSON record. A column of
    /// structs gives each row the keys of all, where null means that there is none. Lists may be
    /// JSON in a text there, in which null is what it is in JSON.
    pub(crate) fn read_row(
        &self,
        mut fields: Map<String, Value>,
        format: Format,
    ) -> Result<Read, Fault> {
        self.columns.rename(&mut fields);
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(remove_nulls);
        for key in [
            "messages",
            "conversations",
            "conversation",
            "tools",
            "functions",
            "documents",
            "chat_template_kwargs",
            "history",
        ] {
            if let Some(Value::String(text)) = fields.get(key) {
                let value = json_in(key, text)?;
                fields.insert(key.into(), value);
            }
        }
        for key in ["prompt", "completion", "chosen", "rejected"] {
            if let Some(Value::String(text)) = fields.get(key)
                && text.trim_start().starts_with('[')
                && let Ok(Value::Array(turns)) = json::parse(text.as_bytes())
                && !turns.is_empty()
                && turns.iter().all(Value::is_object)
            {
                fields.insert(key.into(), Value::Array(turns));
            }
        }
        self.read_renamed(fields, format)
    }

    /// A paragraph of a text file.
    pub(crate) fn read_text(&self, bytes: &[u8]) -> Result<Read, Fault> {
        Ok((Record::Text(json::utf8(bytes)?.to_owned()), Vec::new()))
    }

    fn shape(&self, fields: &mut Map<String, Value>) -> Result<Record, Fault> {
        for list in ["messages", "conversations", "conversation"] {
            if let Some(value) = fields.shift_remove(list) {
                let conversation = Conversation::new(turns::read(value, list)?);
                return Ok(Record::Conversation(self.complete(conversation, fields)?));
            }
        }
        match pairs::take(self, fields)? {
            Some(Record::Conversation(conversation)) => {
                Ok(Record::Conversation(self.complete(conversation, fields)?))
            }
            Some(record) => Ok(record),
            None if fields.contains_key("text") => Ok(Record::Text(string(fields, "text")?)),
            None => {
                let keys: Vec<String> = fields.keys().map(|key| format!("`{key}`")).collect();
                let found = if keys.is_empty() { "nothing".into() } else { keys.join(", ") };
                if let Some(missing) = self.columns.missing(fields) {
                    return Err(missing);
                }
                fault(format!("a record of unknown shape: it has {found}"), SHAPES)
            }
        }
    }

    /// Takes what the record says apart from its turns.
    fn complete(
        &self,
        mut conversation: Conversation,
        fields: &mut Map<String, Value>,
    ) -> Result<Conversation, Fault> {
        if let Some(system) = system(fields)? {
            let first = conversation.messages.first().filter(|first| first.role() == "system");
            if first
                .is_some_and(|first| first.fields().get("content") != Some(&system.as_str().into()))
            {
                return fault(
                    "the record has both a `system` and a system turn",
                    "give one of them",
                );
            }
            if first.is_none() {
                conversation.messages.insert(0, crate::message::Message::new("system", system));
                conversation.prompt_turns += 1;
            }
        }
        conversation.tools = list(fields, "tools")?.map(tools).transpose()?;
        if let Some(Value::Array(functions)) = list(fields, "functions")?.map(tools).transpose()? {
            if conversation.tools.is_some() {
                return fault("the record has both `functions` and `tools`", "give one of them");
            }
            let wrap = |function| serde_json::json!({ "type": "function", "function": function });
            conversation.tools = Some(functions.into_iter().map(wrap).collect());
        }
        conversation.documents = list(fields, "documents")?;
        conversation.template_kwargs = self.template_kwargs.clone();
        match fields.shift_remove("chat_template_kwargs") {
            None => {}
            Some(Value::Object(kwargs)) => {
                refuse_reserved(&kwargs)?;
                conversation.template_kwargs.extend(kwargs);
            }
            Some(other) => {
                return fault(
                    format!("`chat_template_kwargs` is {}", kind(&other)),
                    "give an object of variables",
                );
            }
        }
        Ok(conversation)
    }
}

/// Variables that the conversation itself gives to its template.
fn refuse_reserved(kwargs: &Map<String, Value>) -> Result<(), Fault> {
    const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
    match kwargs.keys().find(|key| RESERVED.contains(&key.as_str())) {
        Some(key) => fault(
            format!("`chat_template_kwargs` sets `{key}`"),
            "the record itself gives that to the template; remove it",
        ),
        None => Ok(()),
    }
}

fn check(record: &Record, format: Format, loss_on: LossOn) -> Result<(), Fault> {
    match (record, format) {
        (Record::Text(_), Format::Conversations) => {
            return fault(
                "a record with `text` in a source of conversations",
                "set its format to text or auto",
            );
        }
        (Record::Conversation(_) | Record::Completion { .. }, Format::Text) => {
            return fault(
                "a conversation in a source of texts",
                "set its format to conversations or auto",
            );
        }
        _ => {}
    }
    if let Record::Conversation(Conversation { messages, .. }) = record {
        if messages.is_empty() {
            return fault("the conversation is empty", "remove the record, or skip bad lines");
        }
        if loss_on == LossOn::Assistant && !messages.iter().any(|message| message.is_assistant()) {
            return fault(
                "the conversation has no assistant turn, so nothing in it would be trained",
                "remove the record, skip bad lines, or put the loss on all tokens",
            );
        }
    }
    Ok(())
}

/// The system prompt that is no turn.
fn system(fields: &mut Map<String, Value>) -> Result<Option<String>, Fault> {
    for key in ["system", "system_prompt"] {
        match fields.shift_remove(key) {
            Some(Value::String(text)) if text.trim().is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(other) => {
                return fault(
                    format!("`{key}` is {} and not a string", kind(&other)),
                    "give plain text",
                );
            }
            None => {}
        }
    }
    Ok(None)
}

/// A list, which some data sets hold as JSON in a text; an empty one is none.
fn list(fields: &mut Map<String, Value>, key: &str) -> Result<Option<Value>, Fault> {
    let value = match fields.shift_remove(key) {
        None => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => json_in(key, &text)?,
        Some(value) => value,
    };
    match value {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(value)),
        other => fault(format!("`{key}` is {} and not a list", kind(&other)), "give a list"),
    }
}

/// Tools, each of which may be JSON in a text, too.
fn tools(list: Value) -> Result<Value, Fault> {
    let Value::Array(list) = list else { return Ok(list) };
    let tool = |tool| match tool {
        Value::String(text) => match json::parse(text.as_bytes()) {
            Ok(tool @ Value::Object(_)) => Ok(tool),
            _ => fault("a tool is a text that is no object in JSON", "give the tool's JSON schema"),
        },
        Value::Object(_) => Ok(tool),
        other => fault(format!("a tool is {}", kind(&other)), "give the tool's JSON schema"),
    };
    list.into_iter().map(tool).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// JSON in the text of a column.
fn json_in(key: &str, text: &str) -> Result<Value, Fault> {
    let parsed = json::parse(text.as_bytes())
        .and_then(|value| json::check_digits(&value, text.as_bytes()).map(|()| value));
    parsed.map_err(|Fault { problem, remedy }| Fault {
        problem: format!("`{key}` is no JSON that can be read ({problem})"),
        remedy,
    })
}

fn string(fields: &mut Map<String, Value>, key: &str) -> Result<String, Fault> {
    match fields.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            fault(format!("`{key}` is {} and not a string", kind(&other)), "give plain text")
        }
        None => fault(format!("there is no `{key}`"), SHAPES),
    }
}

/// Removes what a column of structs has only since other rows have it. A turn without content says
/// that itself.
fn remove_nulls(column: &mut Value) {
    if let Value::Array(turns) = column {
        for turn in turns {
            match turn {
                Value::Object(fields) => {
                    fields.retain(|key, value| !value.is_null() || key == "content");
                    fields.values_mut().for_each(remove_nested_nulls);
                }
                other => remove_nested_nulls(other),
            }
        }
    } else {
        remove_nested_nulls(column);
    }
}

fn remove_nested_nulls(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(remove_nested_nulls),
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nested_nulls);
        }
        _ => {}
    }
}

/// The keys of a record as variables of a template.
fn values(fields: &Map<String, Value>) -> minijinja::Value {
    fields.iter().map(|(key, value)| (key.clone(), jinja::value(value))).collect()
}

pub(crate) fn kind(value: &Value) -> &'static str {
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
mod tests;
