//! Finding parts of a string; places count characters.

use minijinja::{Error, Value};

use crate::jinja::arguments::{bind, required};
use crate::jinja::text::{byte_of, length};
use crate::jinja::types::{fail, index_of, integer, str_of, type_name};

/// The bytes of `text[start:end]`, and the place of the first character; none if `start` is beyond
/// the end.
fn section(
    text: &str,
    start: Option<&Value>,
    end: Option<&Value>,
) -> Result<Option<(usize, usize)>, Error> {
    let given = |value: Option<&Value>| value.is_some_and(|value| !value.is_none());
    if !given(start) && !given(end) {
        return Ok(Some((0, text.len())));
    }
    let count = length(text);
    let place = |value: Option<&Value>, default: usize| -> Result<usize, Error> {
        match value {
            Some(value) if !value.is_none() => {
                let index = index_of(value, "a place in a string")?;
                let from_end = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
                Ok(if index < 0 {
                    count.saturating_sub(from_end)
                } else {
                    usize::try_from(index).unwrap_or(usize::MAX)
                })
            }
            _ => Ok(default),
        }
    };
    let (start, end) = (place(start, 0)?, place(end, count)?.min(count));
    if start > end {
        return Ok(None);
    }
    Ok(Some((byte_of(text, start), byte_of(text, end))))
}

/// `find`, `rfind`, `index`, `rindex` and `count`.
pub(super) fn search(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [part, start, end] = bind(name, arguments, ["sub", "start", "end"])?;
    let part = required(name, "sub", part)?;
    let part = str_of(&part, "what is searched for")?;
    let Some((from, to)) = section(text, start.as_ref(), end.as_ref())? else {
        return not_found(name);
    };
    let section = &text[from..to];
    let found = match name {
        "count" if part.is_empty() => return Ok(integer(length(section) as i128 + 1)),
        "count" => return Ok(integer(section.matches(part).count() as i128)),
        "find" | "index" => section.find(part),
        _ => section.rfind(part),
    };
    match found {
        Some(at) => Ok(integer(length(&text[..from + at]) as i128)),
        None => not_found(name),
    }
}

fn not_found(name: &str) -> Result<Value, Error> {
    match name {
        "count" => Ok(Value::from(0)),
        "find" | "rfind" => Ok(Value::from(-1)),
        _ => fail(format!("`{name}`: the part is not in the string")),
    }
}

/// `startswith` and `endswith`, with one string or a tuple of them.
pub(super) fn affix(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [affix, start, end] = bind(name, arguments, ["prefix", "start", "end"])?;
    let affix = required(name, "prefix", affix)?;
    let section = section(text, start.as_ref(), end.as_ref())?.map(|(from, to)| &text[from..to]);
    let holds = |affix: &Value| match affix.as_str() {
        Some(affix) => Ok(section.is_some_and(|text| {
            if name == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) }
        })),
        None => fail(format!(
            "`{name}` takes a string or a tuple of strings and not {}",
            type_name(affix)
        )),
    };
    let Some(tuple) = affix.downcast_object_ref::<crate::jinja::types::Tuple>() else {
        return holds(&affix).map(Value::from);
    };
    for affix in &tuple.items {
        if holds(affix)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}
