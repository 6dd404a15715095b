//! JSON files that hold good data in a layout that is not read, told by how they begin.

use std::path::Path;

use crate::error::{Error, Place, Result};
use crate::json_scan::{Scan, Step};

/// Refuses a file that is one object with a list or a table of records inside, or objects that have
/// several lines each. `head` is how it begins, from the line `line` on: all of it, or as much as
/// the buffer can hold.
///
/// # Errors
/// With the layout that it has, and how to change it.
pub(crate) fn check(path: &Path, line: u64, head: &[u8], columns: &[&str]) -> Result<()> {
    let refuse = |problem: String, remedy: String| {
        Err(Error::Record {
            place: Place { path: path.to_owned(), line: line as usize },
            problem,
            remedy,
        })
    };
    let (first, rest) = match head.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&head[..end], head[end..].trim_ascii()),
        None => (head, &head[..0]),
    };
    let spans_lines = !rest.is_empty()
        && is_open_object(first)
        && !is_whole(rest.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let is_alone = rest.is_empty() && first.starts_with(b"{");
    if !spans_lines && !is_alone {
        return Ok(());
    }
    let fields = outline(head);
    let begins =
        |opening: u8| fields.iter().find(|field| field.value == opening).map(|field| &field.key);
    let is_record =
        fields.iter().any(|field| columns.contains(&field.key.as_str()) && field.value != b'{');
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    if !is_record && let Some(key) = begins(b'[') {
        let remedy =
            format!("write its elements as records: jq -c '.[{key:?}][]' {file} > records.jsonl");
        return refuse(format!("it is one object with a list in {key:?}, and not records"), remedy);
    }
    if !is_record && !fields.is_empty() && fields.iter().all(|field| field.value == b'{') {
        let is_by_column = fields.iter().any(|field| columns.contains(&field.key.as_str()));
        let remedy = match is_by_column {
            true => "write it by rows; with pandas: to_json(path, orient=\"records\", lines=True)"
                .into(),
            false => format!("write its values as records: jq -c '.[]' {file} > records.jsonl"),
        };
        return refuse(
            format!("it is one object of objects ({:?}, ...), and not records", fields[0].key),
            remedy,
        );
    }
    if spans_lines {
        return refuse(
            "a record has several lines".into(),
            format!(
                "write one whole record on each line (jq -c . {file} > records.jsonl), or one array of records"
            ),
        );
    }
    Ok(())
}

/// Whether a line opens an object and does not close it.
fn is_open_object(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    // A line that was cut off ends within a word or a string; one of an object that continues on
    // the next line, after a mark.
    let goes_on = matches!(line.last(), Some(b'{' | b'[' | b',' | b':'));
    line.starts_with(b"{") && goes_on && Scan::default().step(line) == Step::More
}

/// Whether a line is a value and nothing else.
fn is_whole(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    Scan::default().step(line) == Step::End(line.len())
}

/// A key of an object, and the first byte of its value.
struct Field {
    key: String,
    value: u8,
}

/// The first keys of the object that a text begins with, as far as it goes.
fn outline(text: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    let mut rest =
        text.trim_ascii_start().strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    while rest.first() == Some(&b'"')
        && let Step::End(end) = Scan::default().step(rest)
        && let Ok(key) = serde_json::from_slice(&rest[..end])
        && let Some(value) = rest[end..].trim_ascii_start().strip_prefix(b":")
        && let value = value.trim_ascii_start()
        && let Some(&first) = value.first()
    {
        found.push(Field { key, value: first });
        let Step::End(end) = Scan::default().step(value) else { break };
        let Some(next) = value[end..].trim_ascii_start().strip_prefix(b",") else { break };
        rest = next.trim_ascii_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<String> {
        check("x.json".as_ref(), 1, text.as_bytes(), &["text", "messages"])
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn layouts_that_hold_records_elsewhere_are_named_with_the_way_out() {
        for (text, problem, remedy) in [
            (
                "{\"data\": [{\"text\": \"a\"}]}",
                "one object with a list in \"data\"",
                "jq -c '.[\"data\"][]' x.json",
            ),
            (
                "{\"version\": 1, \"train\": [\n{\"text\": \"a\"},\n{\"text\": \"b\"}\n]}\n",
                "one object with a list in \"train\"",
                "'.[\"train\"][]'",
            ),
            ("{\n  \"data\": [\n    {", "one object with a list in \"data\"", "jq"),
            (
                "{\"0\": {\"text\": \"a\"}, \"1\": {\"text\": \"b\"}}",
                "one object of objects (\"0\", ...)",
                "jq -c '.[]' x.json",
            ),
            (
                "{\"text\": {\"0\": \"a\", \"1\": \"b\"}}\n",
                "one object of objects",
                "orient=\"records\"",
            ),
            (
                "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n",
                "a record has several lines",
                "jq -c . x.json",
            ),
            (
                "{\"messages\": [\n  {\"role\": \"user\",\n",
                "a record has several lines",
                "one whole record on each line",
            ),
        ] {
            let error = refused(text).unwrap_or_else(|| panic!("{text}"));
            assert!(
                error.contains(problem) && error.contains(remedy) && error.contains("x.json:1"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn records_and_broken_lines_are_left_to_their_reader() {
        for text in [
            "",
            "{",
            "{\"text\": \"a\"}",
            "{\"text\": \"a\", \"meta\": {\"data\": [1]}, \"tags\": [1]}",
            "{\"messages\": [{\"role\": \"user\"}]}\n{\"messages\": []}",
            "{\"query\": \"a\", \"answer\": \"b\"}",
            // Cut off, and followed by a whole one.
            "{\"messages\": [\n{\"text\": \"a\"}\n",
            "{\"text\": \"a\n{\"text\": \"b\"}\n",
            "3\n",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
    }
}
