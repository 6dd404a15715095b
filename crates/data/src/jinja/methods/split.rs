//! Splitting strings.

use minijinja::{Error, Value};

use crate::jinja::arguments::{bind, is_true, required};
use crate::jinja::limits::{charge, charge_items};
use crate::jinja::text::{is_space, split_lines};
use crate::jinja::types::{Tuple, fail, index_of, list, str_of};

/// `split` and `rsplit`.
pub(super) fn split(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [separator, maximum] = bind(name, arguments, ["sep", "maxsplit"])?;
    let maximum = maximum.map_or(Ok(-1), |maximum| index_of(&maximum, "`maxsplit`"))?;
    let maximum = usize::try_from(maximum).unwrap_or(usize::MAX);
    let from_end = name == "rsplit";
    let Some(separator) = separator.filter(|separator| !separator.is_none()) else {
        return if from_end {
            reversed_list_of(words_from_end(text, maximum))
        } else {
            list_of(words(text, maximum))
        };
    };
    let separator = str_of(&separator, "`sep`")?;
    if separator.is_empty() {
        return fail(format!("`{name}` with an empty separator"));
    }
    let most = maximum.saturating_add(1);
    if from_end {
        reversed_list_of(text.rsplitn(most, separator))
    } else {
        list_of(text.splitn(most, separator))
    }
}

/// The parts, each counted before the next is looked for.
fn values_of<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<Value>, Error> {
    let value = |part: &str| {
        charge_items(1)?;
        Ok(Value::from(part))
    };
    parts.map(value).collect()
}

fn list_of<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Value, Error> {
    list(values_of(parts)?)
}

fn reversed_list_of<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Value, Error> {
    let mut parts = values_of(parts)?;
    parts.reverse();
    list(parts)
}

/// What stands between white space, and after `maximum` of it the rest.
fn words(text: &str, maximum: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut left) = (text.trim_start_matches(is_space), maximum);
    std::iter::from_fn(move || {
        let end = if left == 0 { None } else { rest.find(is_space) };
        let word = &rest[..end.unwrap_or(rest.len())];
        rest = rest[word.len()..].trim_start_matches(is_space);
        left = left.saturating_sub(1);
        (!word.is_empty()).then_some(word)
    })
}

/// The same from the end, the last first.
fn words_from_end(text: &str, maximum: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut left) = (text.trim_end_matches(is_space), maximum);
    std::iter::from_fn(move || {
        let word = if left == 0 { rest } else { rest.rsplit(is_space).next().unwrap_or(rest) };
        rest = rest[..rest.len() - word.len()].trim_end_matches(is_space);
        left = left.saturating_sub(1);
        (!word.is_empty()).then_some(word)
    })
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
    charge(text.len())?;
    Tuple::value(parts.into_iter().map(Value::from).collect())
}
