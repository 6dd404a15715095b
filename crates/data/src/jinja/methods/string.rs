//! Methods of strings.

use std::collections::HashSet;

use minijinja::{Error, State, Value};

use super::{character, format, search, split};
use crate::jinja::arguments::{bind, required};
use crate::jinja::limits::charge;
use crate::jinja::printing;
use crate::jinja::text::{is_space, length};
use crate::jinja::types::{fail, index_of, items_of, str_of, string, type_name};

/// The result of a method; none if strings have no such method here.
pub(super) fn call(
    _: &State<'_, '_>,
    object: &Value,
    text: &str,
    name: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    let value = match name {
        "strip" | "lstrip" | "rstrip" => {
            let [characters] = bind(name, arguments, ["chars"])?;
            strip(object, name, characters.as_ref())?
        }
        "split" | "rsplit" => split::split(text, name, arguments)?,
        "splitlines" => split::lines(text, name, arguments)?,
        "partition" | "rpartition" => split::partition(text, name, arguments)?,
        "startswith" | "endswith" => search::affix(text, name, arguments)?,
        "find" | "rfind" | "index" | "rindex" | "count" => search::search(text, name, arguments)?,
        "replace" => replace(text, arguments)?,
        "removeprefix" | "removesuffix" => remove_affix(text, name, arguments)?,
        "join" => {
            let [items] = bind(name, arguments, ["iterable"])?;
            join_strings(text, &required(name, "iterable", items)?)?
        }
        "format" => format::format(text, arguments)?,
        "ljust" | "rjust" | "center" | "zfill" => justify(text, name, arguments)?,
        "expandtabs" => expand_tabs(text, arguments)?,
        _ => {
            let result = without_arguments(text, name)?;
            if result.is_some() {
                let [] = bind(name, arguments, [])?;
            }
            return Ok(result);
        }
    };
    Ok(Some(value))
}

fn without_arguments(text: &str, name: &str) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "upper" => string(text.to_uppercase())?,
        "lower" => string(text.to_lowercase())?,
        "capitalize" => string(character::capitalize(text)?)?,
        "title" => string(character::title(text)?)?,
        "swapcase" => string(character::swap_case(text))?,
        "casefold" if text.is_ascii() => string(text.to_lowercase())?,
        "islower" => Value::from(character::is_lower(text)),
        "isupper" => Value::from(character::is_upper(text)),
        "istitle" => Value::from(character::is_title_text(text)),
        "isascii" => Value::from(text.is_ascii()),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isprintable" => {
            charge(if text.is_ascii() { 0 } else { text.len().saturating_mul(8) })?;
            Value::from(text.chars().all(printing::is_printable))
        }
        "isalpha" | "isalnum" | "isdigit" | "isdecimal" | "isnumeric" => {
            Value::from(character::is_all(name, text)?)
        }
        _ => return Ok(None),
    }))
}

/// Bytes of characters among which looking for one is fast enough without a table.
const FEW: usize = 32;

/// `strip(chars)` at one or both ends.
pub(in crate::jinja) fn strip(
    object: &Value,
    name: &str,
    characters: Option<&Value>,
) -> Result<Value, Error> {
    let text = object.as_str().unwrap_or_default();
    charge(text.len())?;
    let stripped = match characters.filter(|characters| !characters.is_none()) {
        None => strip_by(text, name, is_space),
        Some(characters) => {
            let characters = str_of(characters, "`chars`")?;
            charge(characters.len())?;
            if characters.len() <= FEW {
                strip_by(text, name, |character| characters.contains(character))
            } else {
                let characters: HashSet<char> = characters.chars().collect();
                strip_by(text, name, |character| characters.contains(&character))
            }
        }
    };
    if stripped.len() == text.len() { Ok(object.clone()) } else { string(stripped) }
}

fn strip_by<'a>(text: &'a str, name: &str, matches: impl Fn(char) -> bool) -> &'a str {
    let text = if name == "rstrip" { text } else { text.trim_start_matches(&matches) };
    if name == "lstrip" { text } else { text.trim_end_matches(&matches) }
}

fn replace(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [old, new, count] = bind("replace", arguments, ["old", "new", "count"])?;
    let (old, new) = (required("replace", "old", old)?, required("replace", "new", new)?);
    let count = count.map_or(Ok(-1), |count| index_of(&count, "`count`"))?;
    replace_parts(text, str_of(&old, "`old`")?, str_of(&new, "`new`")?, count)
}

/// `text.replace(old, new, count)`; a negative count means all.
pub(in crate::jinja) fn replace_parts(
    text: &str,
    old: &str,
    new: &str,
    count: i64,
) -> Result<Value, Error> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let places =
        if old.is_empty() { length(text) + 1 } else { text.matches(old).take(count).count() }
            .min(count);
    charge(text.len().saturating_add(places.saturating_mul(new.len())))?;
    if places == 0 {
        return Ok(Value::from(text));
    }
    Ok(Value::from(text.replacen(old, new, places)))
}

fn remove_affix(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [affix] = arguments else { return fail(format!("`{name}` takes one argument")) };
    let affix = str_of(affix, "a prefix or suffix")?;
    let rest =
        if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
    string(rest.unwrap_or(text))
}

/// `separator.join(items)`: all of them must be strings.
pub(in crate::jinja) fn join_strings(separator: &str, items: &Value) -> Result<Value, Error> {
    let items = items_of(items)?;
    let mut length = separator.len().saturating_mul(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(text) = item.as_str() else {
            return fail(format!("`join`: item {index} is {} and not a string", type_name(item)));
        };
        length = length.saturating_add(text.len());
    }
    charge(length)?;
    Ok(Value::from(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)))
}

/// `ljust`, `rjust`, `center` and `zfill`.
fn justify(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [width, fill] = bind(name, arguments, ["width", "fillchar"])?;
    let width =
        usize::try_from(index_of(&required(name, "width", width)?, "`width`")?).unwrap_or(0);
    let missing = width.saturating_sub(length(text));
    let fill = match &fill {
        _ if name == "zfill" => '0',
        None => ' ',
        Some(fill) => {
            match (fill.as_str().and_then(|fill| fill.chars().next()), fill.as_str().map(length)) {
                (Some(character), Some(1)) => character,
                _ => return fail(format!("the fill character of `{name}` is not one character")),
            }
        }
    };
    charge(text.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
    let filled = |count: usize| fill.to_string().repeat(count);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{}", filled(missing)),
        "rjust" => format!("{}{text}", filled(missing)),
        "center" => {
            // Python puts the odd one to the left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", filled(left), filled(missing - left))
        }
        _ => {
            let sign =
                text.chars().next().filter(|c| matches!(c, '+' | '-')).map_or(0, char::len_utf8);
            format!("{}{}{}", &text[..sign], filled(missing), &text[sign..])
        }
    }))
}

fn expand_tabs(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [size] = bind("expandtabs", arguments, ["tabsize"])?;
    let size = size.map_or(Ok(8), |size| index_of(&size, "`tabsize`"))?;
    let size = usize::try_from(size).unwrap_or(0);
    charge(text.matches('\t').count().saturating_mul(size))?;
    let (mut result, mut column) = (String::with_capacity(text.len()), 0);
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                result.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            _ => {
                result.push(character);
                column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    string(result)
}
