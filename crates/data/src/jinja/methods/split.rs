//! Splitting strings.

use minijinja::{Error, Value};

use crate::jinja::arguments::{bind, is_true, required};
use crate::jinja::text::{is_space, split_lines};
use crate::jinja::types::{Tuple, fail, index_of, list, str_of};

/// `split` and `rsplit`.
pub(super) fn split(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [separator, maximum] = bind(name, arguments, ["sep", "maxsplit"])?;
    let maximum = maximum.map_or(Ok(-1), |maximum| index_of(&maximum, "`maxsplit`"))?;
    let maximum = usize::try_from(maximum).unwrap_or(usize::MAX);
    let from_end = name == "rsplit";
    let parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        None if from_end => split_space_from_end(text, maximum),
        None => split_space(text, maximum),
        Some(separator) => {
            let separator = str_of(&separator, "`sep`")?;
            if separator.is_empty() {
                return fail(format!("`{name}` with an empty separator"));
            }
            let most = maximum.saturating_add(1);
            if from_end {
                let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
                parts.reverse();
                parts
            } else {
                text.splitn(most, separator).collect()
            }
        }
    };
    list_of(parts)
}

fn list_of(parts: Vec<&str>) -> Result<Value, Error> {
    list(parts.into_iter().map(Value::from).collect())
}

fn split_space(text: &str, maximum: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() && parts.len() < maximum {
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn split_space_from_end(text: &str, maximum: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() && parts.len() < maximum {
        let word = rest.rsplit(is_space).next().unwrap_or(rest);
        parts.push(word);
        rest = rest[..rest.len() - word.len()].trim_end_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    parts
}

/// `splitlines(keepends)`.
pub(super) fn lines(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [keep_ends] = bind(name, arguments, ["keepends"])?;
    list_of(split_lines(text, is_true(keep_ends.as_ref(), false)))
}

/// `partition` and `rpartition`.
pub(super) fn partition(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [separator] = bind(name, arguments, ["sep"])?;
    let separator = required(name, "sep", separator)?;
    let separator = str_of(&separator, "`sep`")?;
    if separator.is_empty() {
        return fail(format!("`{name}` with an empty separator"));
    }
    let found =
        if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match (found, name) {
        (Some((before, after)), _) => [before, separator, after],
        (None, "partition") => [text, "", ""],
        (None, _) => ["", "", text],
    };
    Ok(Tuple::value(parts.into_iter().map(Value::from).collect()))
}
