//! Marks around what the turns of a conversation say: where they come out in the text, there the
//! words have landed.

use serde_json::{Map, Value, json};

use crate::message::{Message, THOUGHTS};

/// Noncharacters of Unicode, which no text should hold: a mark is the number of its turn between
/// them.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// Whether a text holds what could be taken for a mark.
pub(super) fn holds_marks(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}

pub(super) fn mark(turn: usize) -> String {
    format!("{OPEN}{turn}{CLOSE}")
}

fn call_mark(turn: usize, call: usize) -> String {
    format!("{OPEN}{turn}.{call}{CLOSE}")
}

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) turn: usize,
    /// The call of that turn whose argument it is at.
    pub(super) call: Option<usize>,
    /// Its byte in the text without marks.
    pub(super) at: usize,
}

/// A text without its marks, and these, in order.
pub(super) fn strip(text: &str) -> (String, Vec<Mark>) {
    let mut plain = String::with_capacity(text.len());
    let mut marks = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(OPEN) {
        plain.push_str(&rest[..open]);
        let after = &rest[open + OPEN.len_utf8()..];
        let close = after.find(CLOSE).unwrap_or(after.len());
        let (turn, call) = after[..close]
            .split_once('.')
            .map_or((&after[..close], None), |(turn, call)| (turn, call.parse().ok()));
        if let Ok(turn) = turn.parse() {
            marks.push(Mark { turn, call, at: plain.len() });
        }
        rest = after.get(close + CLOSE.len_utf8()..).unwrap_or_default();
    }
    plain.push_str(rest);
    (plain, marks)
}

/// The fields of a turn with marks around each text that its template may write.
pub(super) fn marked(message: &Message, turn: usize) -> Map<String, Value> {
    let mark = mark(turn);
    let mut fields = message.fields().clone();
    if let Some(content) = fields.get_mut("content") {
        mark_content(content, &mark);
    }
    if message.is_assistant() {
        for key in THOUGHTS {
            if let Some(Value::String(text)) = fields.get_mut(key) {
                mark_text(text, &mark);
            }
        }
        if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
            calls
                .iter_mut()
                .enumerate()
                .for_each(|(index, call)| mark_call(call, &call_mark(turn, index)));
        }
    }
    fields
}

/// Whether a turn has a content that is not blank.
pub(super) fn says_something(message: &Message) -> bool {
    let is_text = |text: &Value| text.as_str().is_some_and(|text| !text.trim().is_empty());
    match message.fields().get("content") {
        Some(Value::Array(parts)) => parts.iter().any(|part| is_text(&part["text"])),
        content => content.is_some_and(is_text),
    }
}

/// The same with something changed at both ends even where no text is: a content that is empty,
/// arguments that end with a number.
pub(super) fn changed(message: &Message, turn: usize) -> Map<String, Value> {
    let mark = mark(turn);
    let mut fields = marked(message, turn);
    let has_content = says_something(message);
    let is_in_parts = fields.get("content").is_some_and(Value::is_array);
    match fields
        .get_mut("tool_calls")
        .and_then(Value::as_array_mut)
        .filter(|calls| !calls.is_empty())
    {
        // All of them, since some templates write one alone.
        Some(calls) => calls.iter_mut().for_each(|call| change_call(call, &mark)),
        None if !has_content && is_in_parts => {
            _ = fields.insert("content".into(), json!([{"type": "text", "text": mark}]))
        }
        None if !has_content => _ = fields.insert("content".into(), mark.into()),
        None => {}
    }
    fields
}

fn change_call(call: &mut Value, mark: &str) {
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    match function.get_mut("arguments") {
        Some(Value::Object(arguments)) => _ = arguments.insert(mark.into(), mark.into()),
        Some(Value::String(text)) if !text.trim().is_empty() => mark_text(text, mark),
        Some(other) => *other = mark.into(),
        None => function["name"] = mark.into(),
    }
}

/// A turn with one of its calls changed.
pub(super) fn with_call_changed(message: &Message, call: usize) -> Map<String, Value> {
    let mut fields = message.fields().clone();
    if let Some(call) = fields.get_mut("tool_calls").and_then(|calls| calls.get_mut(call)) {
        change_call(call, &mark(0));
    }
    fields
}

/// Whether the last text of the last call is one that [`marked`] marks.
pub(super) fn ends_with_text(message: &Message) -> bool {
    let Some(call) =
        message.fields().get("tool_calls").and_then(Value::as_array).and_then(|calls| calls.last())
    else {
        return true;
    };
    let function = call.get("function").unwrap_or(call);
    fn last(value: &Value) -> bool {
        match value {
            Value::String(text) => !text.trim().is_empty(),
            Value::Array(list) => list.last().is_some_and(last),
            Value::Object(fields) => fields.values().next_back().is_some_and(last),
            _ => false,
        }
    }
    function.get("arguments").is_some_and(last)
}

fn mark_content(content: &mut Value, mark: &str) {
    match content {
        Value::String(text) => mark_text(text, mark),
        Value::Array(parts) => parts.iter_mut().for_each(|part| {
            if let Some(Value::String(text)) = part.get_mut("text") {
                mark_text(text, mark);
            }
        }),
        _ => {}
    }
}

fn mark_call(call: &mut Value, mark: &str) {
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    // The name stays as it is: some templates write it once more where the tool answers.
    if let Some(arguments) = function.get_mut("arguments") {
        mark_texts(arguments, mark);
    }
}

fn mark_texts(value: &mut Value, mark: &str) {
    match value {
        Value::String(text) => mark_text(text, mark),
        Value::Array(list) => list.iter_mut().for_each(|value| mark_texts(value, mark)),
        Value::Object(fields) => fields.values_mut().for_each(|value| mark_texts(value, mark)),
        _ => {}
    }
}

/// White space stays outside the marks, since many templates strip it.
fn mark_text(text: &mut String, mark: &str) {
    let end = text.trim_end().len();
    let start = text.len() - text.trim_start().len();
    if start < end {
        text.insert_str(end, mark);
        text.insert_str(start, mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_inside_the_white_space_and_come_off_again() {
        let message = Message::new("assistant", " a b\n");
        let fields = marked(&message, 12);
        assert_eq!(fields["content"], format!(" {0}a b{0}\n", mark(12)));
        let marks = [1, 4].map(|at| Mark { turn: 12, call: None, at });
        assert_eq!(strip(fields["content"].as_str().unwrap()), (" a b\n".into(), marks.to_vec()));
        assert_eq!(marked(&Message::new("user", "\n"), 0)["content"], "\n");
        assert_eq!(changed(&Message::new("user", ""), 3)["content"], mark(3));
    }

    #[test]
    fn calls_are_marked_where_they_have_text() {
        let message = |arguments: Value| {
            let fields = serde_json::json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
            Message::from_fields(fields.as_object().unwrap().clone())
        };
        let text = message(serde_json::json!({"x": 1, "y": {"z": "t"}}));
        assert!(
            ends_with_text(&text)
                && !ends_with_text(&message(serde_json::json!({"x": "t", "y": 1})))
        );
        let function = &marked(&text, 1)["tool_calls"][0]["function"];
        assert_eq!(function["arguments"]["y"]["z"], format!("{0}t{0}", call_mark(1, 0)));
        assert_eq!(strip(&call_mark(1, 0)).1, [Mark { turn: 1, call: Some(0), at: 0 }]);
        assert_eq!(function["name"], "f");
        let arguments =
            &changed(&message(serde_json::json!({})), 1)["tool_calls"][0]["function"]["arguments"];
        assert_eq!(arguments[mark(1)], mark(1));
    }
}
