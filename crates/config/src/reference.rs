//! The reference of all keys, and the explanation of one.

use crate::{
    declare::Key,
    registry::{self, TableSpec},
    suggest,
};
use std::fmt::Write;

impl Key {
    /// What it does, its default, and when it is read, in sentences.
    pub(crate) fn description(&self) -> String {
        let default = match &self.default {
            Some(default) => format!("Default: {default}."),
            None => "It must be given.".to_owned(),
        };
        let when = self
            .when
            .as_ref()
            .map(|when| format!(" Read only if {}.", when.text))
            .unwrap_or_default();
        format!("{} {default}{when}", self.help)
    }
}

/// The page that describes every key of every table, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for table in registry::tables().iter().filter(|table| table.name != "data.eval") {
        write_table(&mut page, table);
    }
    page
}

const INTRODUCTION: &str = "\
# Configuration reference

<!-- Generated from crates/config by `LORACT_BLESS=1 cargo test --release -p loract --test reference`. Do not edit. -->

A configuration is a TOML file of tables. The command line replaces a key with `--set table.key=value`. A key that is given and
not read, because another key chooses a method that has no use for it, is an error. `loract config --explain table.key` prints
the entry of one key, `loract config FILE` the file with every key and its value, and `loract config --schema` the JSON schema,
with which editors complete and check a file whose first line is `#:schema ./loract.schema.json`.
";

fn write_table(page: &mut String, table: &TableSpec) {
    let title =
        if table.is_list { format!("[[{}]]", table.name) } else { format!("[{}]", table.name) };
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## `{title}`\n\n{}\n", table.about);
    for key in &table.keys {
        let _ = write!(page, "\n### `{}`\n\n{}\n\n", key.name, key.help);
        let _ = writeln!(page, "- Valid: {}", in_markdown(&key.valid));
        for (name, meaning) in key.choices {
            let _ = writeln!(page, "  - `\"{name}\"`: {}", meaning.trim());
        }
        let _ = match &key.default {
            Some(default) => writeln!(page, "- Default: {}", in_markdown(default)),
            None => writeln!(page, "- Default: none; the key must be given"),
        };
        if let Some(when) = &key.when {
            let _ = writeln!(page, "- Read only if {}", in_markdown(&when.text));
        }
        let _ = writeln!(page, "- Example: `{} = {}`", key.name, key.example);
    }
}

/// Words with what HTML and Markdown would take for their own.
fn in_markdown(words: &str) -> String {
    words
        .replace('<', "&lt;")
        .replace('*', "\\*")
        .replace('_', "\\_")
        .replace('[', "\\[")
        .replace("{{", "{ {")
}

/// The entry of one key, `table.key`, as text.
///
/// # Errors
/// That there is no such key, and which is meant.
pub fn explain(name: &str) -> Result<String, String> {
    let (table, key) = name.trim().rsplit_once('.').unwrap_or(("", name.trim()));
    let Some(found) = registry::key(table, key) else {
        let known: Vec<&str> = registry::table(table)
            .map(|table| table.keys.iter().map(|key| key.name).collect())
            .unwrap_or_default();
        let meant = if table.is_empty() {
            suggest::key_anywhere(key)
        } else {
            suggest::key(table, key, &known)
        };
        let hint = meant.map_or_else(
            || "give table.key, such as activations.method".to_owned(),
            |meant| format!("did you mean {meant}?"),
        );
        return Err(format!("there is no key {name}; {hint}"));
    };
    let mut text = format!("[{table}] {key}\n{}\n", found.help);
    let _ = writeln!(text, "valid:    {}", found.valid);
    let _ = writeln!(
        text,
        "default:  {}",
        found.default.as_deref().unwrap_or("none; it must be given")
    );
    if let Some(when) = &found.when {
        let _ = writeln!(text, "read if:  {}", when.text);
    }
    let _ = writeln!(text, "example:  {key} = {}", found.example);
    for (name, meaning) in found.choices {
        let _ = writeln!(text, "  \"{name}\": {}", meaning.trim());
    }
    Ok(text)
}

/// A configuration in TOML of these keys (`table.key`, and the value in TOML), each after a comment
/// that says what it does. The keys come in the order of their tables.
pub fn commented(keys: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for table in registry::tables().iter().filter(|table| !table.is_list) {
        let given = |key: &Key| {
            keys.iter().find(|(name, _)| name.split_once('.') == Some((table.name, key.name)))
        };
        let lines: Vec<String> =
            table.keys.iter().filter_map(|key| Some(entry(key, given(key)?.1))).collect();
        if !lines.is_empty() {
            let separator = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{separator}[{}]\n{}", table.name, lines.concat());
        }
    }
    text
}

/// A key with its value and what it does.
fn entry(key: &Key, value: &str) -> String {
    let mut comment = String::new();
    for word in key.help.split_whitespace() {
        let line = comment.rsplit('\n').next().unwrap_or_default().chars().count();
        let separator =
            if line == 0 || line + word.chars().count() > COMMENT_WIDTH { "\n#" } else { "" };
        let _ = write!(comment, "{separator} {word}");
    }
    format!("{}\n{} = {value}\n", comment.trim_start(), key.name)
}

/// Columns of a comment.
const COMMENT_WIDTH: usize = 96;
