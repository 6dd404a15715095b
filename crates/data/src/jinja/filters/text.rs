//! Filters of text.

use minijinja::{Error, State, Value};

use crate::jinja::arguments::{bind, is_true, required, split};
use crate::jinja::growing::Growing;
use crate::jinja::limits::charge;
use crate::jinja::methods::{character, string as methods};
use crate::jinja::text::{byte_of, length, split_lines};
use crate::jinja::types::{
    Type, fail, index_of, items_of, pairs_of, str_of, string as text_value, type_name, type_of,
};
use crate::jinja::{percent, printing};

/// The text of a filter without arguments.
fn text_of(name: &str, arguments: &[Value]) -> Result<String, Error> {
    let [] = bind(name, &arguments[1..], [])?;
    plain(&arguments[0])
}

/// The text of a value that is not marked by `|safe` or `|escape`.
fn plain(value: &Value) -> Result<String, Error> {
    crate::jinja::operators::refuse_markup(&[value])?;
    printing::str(value)
}

pub(in crate::jinja) fn upper(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    text_value(text_of("upper", arguments)?.to_uppercase())
}

pub(in crate::jinja) fn lower(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    text_value(text_of("lower", arguments)?.to_lowercase())
}

pub(in crate::jinja) fn capitalize(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    text_value(character::capitalize(&text_of("capitalize", arguments)?)?)
}

/// Each word begins with a capital; words are parted by white space and by `-({[<`.
pub(in crate::jinja) fn title(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let text = text_of("title", arguments)?;
    let parts =
        |c: char| crate::jinja::text::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut result = String::with_capacity(text.len());
    for part in text.split_inclusive(parts) {
        let end = part.trim_end_matches(parts).len();
        let mut characters = part[..end].chars();
        result.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        result.push_str(&characters.as_str().to_lowercase());
        result.push_str(&part[end..]);
    }
    text_value(result)
}

/// `str(value)`; a marked text keeps its mark.
pub(in crate::jinja) fn string(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("string", &arguments[1..], [])?;
    if arguments[0].as_str().is_some() {
        Ok(arguments[0].clone())
    } else {
        text_value(printing::str(&arguments[0])?)
    }
}

pub(in crate::jinja) fn safe(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("safe", &arguments[1..], [])?;
    Ok(Value::from_safe_string(printing::str(&arguments[0])?))
}

pub(in crate::jinja) fn escape(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    if arguments[0].is_safe() {
        return Ok(arguments[0].clone());
    }
    let text = text_of("escape", arguments)?;
    charge(text.len().saturating_mul(5))?;
    let escaped = text
        .replace('&', "&amp;")
        .replace('>', "&gt;")
        .replace('<', "&lt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;");
    Ok(Value::from_safe_string(escaped))
}

/// `trim(chars=none)`.
pub(in crate::jinja) fn trim(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [characters] = bind("trim", &arguments[1..], ["chars"])?;
    let value = &arguments[0];
    crate::jinja::operators::refuse_markup(&[value])?;
    if value.as_str().is_some() {
        return methods::strip(value, "strip", characters.as_ref());
    }
    methods::strip(&text_value(printing::str(value)?)?, "strip", characters.as_ref())
}

/// `replace(old, new, count=none)`.
pub(in crate::jinja) fn replace(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [old, new, count] = bind("replace", &arguments[1..], ["old", "new", "count"])?;
    let (old, new) = (required("replace", "old", old)?, required("replace", "new", new)?);
    let count = count
        .filter(|count| !count.is_none())
        .map_or(Ok(-1), |count| index_of(&count, "`count`"))?;
    let (old, new) = (printing::str(&old)?, printing::str(&new)?);
    methods::replace_parts(&plain(&arguments[0])?, &old, &new, count)
}

/// `indent(width=4, first=false, blank=false)`.
pub(in crate::jinja) fn indent(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [width, first, blank] = bind("indent", &arguments[1..], ["width", "first", "blank"])?;
    let value = &arguments[0];
    crate::jinja::operators::refuse_markup(&[value])?;
    let text = str_of(value, "what is indented")?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let indention = match width.as_str() {
        Some(indention) => indention.to_owned(),
        None => {
            let width = usize::try_from(index_of(&width, "`width`")?).unwrap_or(0);
            charge(width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (is_true(first.as_ref(), false), is_true(blank.as_ref(), false));
    charge(text.len())?;
    let with_newline = format!("{text}\n");
    let mut result = Growing::default();
    for (index, line) in split_lines(&with_newline, false).enumerate() {
        result.push_str(if index > 0 { "\n" } else { "" })?;
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        result.push_str(if indented { &indention } else { "" })?;
        result.push_str(line)?;
    }
    Ok(Value::from(result.into_string()))
}

/// `center(width=80)`.
pub(in crate::jinja) fn center(state: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [width] = bind("center", &arguments[1..], ["width"])?;
    let text = text_value(plain(&arguments[0])?)?;
    crate::jinja::methods::call(state, &text, "center", &[width.unwrap_or_else(|| Value::from(80))])
}

/// `truncate(length=255, killwords=false, end='...', leeway=5)`.
pub(in crate::jinja) fn truncate(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [most, kill_words, end, leeway] =
        bind("truncate", &arguments[1..], ["length", "killwords", "end", "leeway"])?;
    crate::jinja::operators::refuse_markup(&[&arguments[0]])?;
    let text = str_of(&arguments[0], "what is truncated")?;
    charge(text.len())?;
    let most =
        usize::try_from(most.map_or(Ok(255), |most| index_of(&most, "`length`"))?).unwrap_or(0);
    let leeway = leeway
        .filter(|leeway| !leeway.is_none())
        .map_or(Ok(5), |leeway| index_of(&leeway, "`leeway`"))?;
    let end =
        end.map_or_else(|| Ok("...".to_owned()), |end| str_of(&end, "`end`").map(str::to_owned))?;
    if most < length(&end) || leeway < 0 {
        return fail("`truncate` to fewer characters than those of its end");
    }
    if length(text) <= most.saturating_add(usize::try_from(leeway).unwrap_or(0)) {
        return Ok(arguments[0].clone());
    }
    let cut = &text[..byte_of(text, most - length(&end))];
    let kept = if is_true(kill_words.as_ref(), false) {
        cut
    } else {
        cut.rsplit_once(' ').map_or(cut, |(kept, _)| kept)
    };
    text_value(format!("{kept}{end}"))
}

pub(in crate::jinja) fn wordcount(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    Ok(Value::from(character::words(&text_of("wordcount", arguments)?)))
}

/// `format(*values)` or `format(**values)`: the operator `%`.
pub(in crate::jinja) fn format(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let format = plain(&arguments[0])?;
    let (positional, named) = split(&arguments[1..]);
    match named {
        Some(_) if !positional.is_empty() => {
            fail("`format` takes values with names or without, and not both")
        }
        Some(named) => {
            let pairs = named.args().map(|name| Ok((Value::from(name), named.peek(name)?)));
            percent::format(
                &format,
                &pairs.collect::<Result<Vec<(Value, Value)>, Error>>()?.into_iter().collect(),
            )
        }
        None => percent::format(&format, &crate::jinja::types::Tuple::value(positional.to_vec())?),
    }
}

/// Percent-encoding: of a string, or of the pairs of a query.
pub(in crate::jinja) fn urlencode(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let [] = bind("urlencode", &arguments[1..], [])?;
    let value = &arguments[0];
    let pairs: Vec<(Value, Value)> = match type_of(value) {
        Type::Dict(dict) => pairs_of(dict),
        Type::List | Type::Tuple(_) | Type::View(_) | Type::Generator(_) => {
            let pair = |item: Value| match &items_of(&item)?[..] {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => fail("`urlencode` takes pairs"),
            };
            items_of(value)?.into_iter().map(pair).collect::<Result<_, _>>()?
        }
        Type::Range(_) | Type::Undefined | Type::Other(_) => {
            return fail(format!("`urlencode` of {} is not supported", type_name(value)));
        }
        _ => return text_value(quote(&printing::str(value)?, true)),
    };
    let encode = |(key, value): (Value, Value)| {
        Ok(format!(
            "{}={}",
            quote(&printing::str(&key)?, false),
            quote(&printing::str(&value)?, false)
        ))
    };
    text_value(pairs.into_iter().map(encode).collect::<Result<Vec<_>, Error>>()?.join("&"))
}

/// In a path `/` stays and a space is `%20`; in a query neither.
fn quote(text: &str, path: bool) -> String {
    use std::fmt::Write;
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                result.push(char::from(byte))
            }
            b'/' if path => result.push('/'),
            b' ' if !path => result.push('+'),
            _ => _ = write!(result, "%{byte:02X}"),
        }
    }
    result
}
