use serde_json::{Map, Value};

/// Keys of the assistant's turns under which its thoughts stand.
pub(crate) const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One turn of a conversation: the keys that a chat template reads, as `apply_chat_template` of
/// transformers is given them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    fields: Map<String, Value>,
    /// What the record says about the loss on this turn, if it says anything.
    pub(crate) trained: Option<bool>,
}

impl Message {
    /// A turn of plain text: who speaks (`system`, `user`, `assistant`, `tool`, or what else the
    /// template knows), and what is said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let fields = [("role", role.into()), ("content", content.into())];
        Self::from_fields(
            fields.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect(),
        )
    }

    /// A turn with whatever keys it has: `role` and `content`, and for instance `tool_calls`,
    /// `tool_call_id`, `name`, `reasoning_content`.
    pub fn from_fields(fields: Map<String, Value>) -> Self {
        Self { fields, trained: None }
    }

    /// Who speaks; empty if the turn does not say.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// All keys, in the order in which they were given.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    pub(crate) fn fields_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.fields
    }

    /// Whether the model speaks here.
    pub(crate) fn is_assistant(&self) -> bool {
        self.role() == "assistant"
    }

    /// Whether it calls a tool.
    pub(crate) fn has_tool_calls(&self) -> bool {
        self.fields
            .get("tool_calls")
            .and_then(Value::as_array)
            .is_some_and(|calls| !calls.is_empty())
    }
}

/// A conversation with everything that its record gives to the chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// The functions that the model may call, as JSON schemas.
    pub tools: Option<Value>,
    /// Documents for retrieval.
    pub documents: Option<Value>,
    /// Other variables of the template, such as `enable_thinking`.
    pub template_kwargs: Map<String, Value>,
    /// Turns before this one are a prompt: they are not trained, whoever speaks.
    pub(crate) prompt_turns: usize,
}

impl Conversation {
    /// A conversation of turns alone.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// Whether the loss on the assistant's turns falls on turn `index`.
    pub(crate) fn trains(&self, index: usize) -> bool {
        let message = &self.messages[index];
        message.is_assistant() && index >= self.prompt_turns && message.trained != Some(false)
    }

    /// Whether the record itself leaves this turn out of the loss, whatever else it falls on.
    pub(crate) fn leaves_out(&self, index: usize) -> bool {
        self.messages[index].is_assistant() && self.messages[index].trained == Some(false)
    }
}
