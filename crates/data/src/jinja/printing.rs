//! What Python's `str` and `repr` write.

use minijinja::value::DynObject;
use minijinja::{Error, Value};

use super::growing::Growing;
use super::limits::{MAX_DEPTH, charge};
use super::types::{Range, Type, fail, pairs_of, type_of};

pub(super) use number::{float, shortest_float};

mod number;

/// `str(value)`.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match type_of(value) {
        Type::Str(text) => {
            charge(text.len())?;
            Ok(text.to_owned())
        }
        Type::Undefined => Ok(String::new()),
        _ => repr(value),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut text = Growing::default();
    write_repr(&mut text, value, 0)?;
    Ok(text.into_string())
}

/// Writes `str(value)` and calls `write` with it, without a copy of a string.
pub(super) fn with_str<T>(value: &Value, write: impl FnOnce(&str) -> T) -> Result<T, Error> {
    match value.as_str() {
        Some(text) => {
            charge(text.len())?;
            Ok(write(text))
        }
        None => Ok(write(&str(value)?)),
    }
}

fn write_repr(text: &mut Growing, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return fail("a value that is nested too deeply is printed");
    }
    match type_of(value) {
        Type::Undefined => text.push_str("Undefined")?,
        Type::None => text.push_str("None")?,
        Type::Bool(value) => text.push_str(if value { "True" } else { "False" })?,
        Type::Int(value) => text.print(value)?,
        Type::Float(value) => text.push_str(&float(value))?,
        Type::Str(string) => {
            charge(string.len())?;
            text.push_str(if value.is_safe() { "Markup(" } else { "" })?;
            quote(text, string)?;
            text.push_str(if value.is_safe() { ")" } else { "" })?;
        }
        Type::List => sequence(text, value, ["[", "]"], depth)?,
        Type::Tuple(tuple) => {
            sequence(text, value, ["(", if tuple.items.len() == 1 { ",)" } else { ")" }], depth)?
        }
        Type::Dict(dict) => mapping(text, dict, depth)?,
        Type::View(view) => {
            text.push_str(view.type_name())?;
            sequence(text, value, ["([", "])"], depth)?;
        }
        Type::Range(range) => {
            let Range { start, stop, step, .. } = range;
            if *step == 1 {
                text.print(format_args!("range({start}, {stop})"))?;
            } else {
                text.print(format_args!("range({start}, {stop}, {step})"))?;
            }
        }
        Type::Generator(_) => {
            return fail("a generator is printed, which is not supported: add `|list`");
        }
        Type::Other(name) => {
            return fail(format!("an object of type {name} is printed, which is not supported"));
        }
    }
    Ok(())
}

fn sequence(
    text: &mut Growing,
    value: &Value,
    [open, close]: [&str; 2],
    depth: usize,
) -> Result<(), Error> {
    text.push_str(open)?;
    for (index, item) in value.try_iter()?.enumerate() {
        charge(8)?;
        text.push_str(if index > 0 { ", " } else { "" })?;
        write_repr(text, &item, depth + 1)?;
    }
    text.push_str(close)?;
    Ok(())
}

fn mapping(text: &mut Growing, dict: &DynObject, depth: usize) -> Result<(), Error> {
    text.push('{')?;
    for (index, (key, value)) in pairs_of(dict).into_iter().enumerate() {
        charge(8)?;
        text.push_str(if index > 0 { ", " } else { "" })?;
        write_repr(text, &key, depth + 1)?;
        text.push_str(": ")?;
        write_repr(text, &value, depth + 1)?;
    }
    text.push('}')?;
    Ok(())
}

/// `repr` of a string.
fn quote(text: &mut Growing, string: &str) -> Result<(), Error> {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(quote)?;
    for character in string.chars() {
        match character {
            '\n' => text.push_str("\\n")?,
            '\r' => text.push_str("\\r")?,
            '\t' => text.push_str("\\t")?,
            '\\' => text.push_str("\\\\")?,
            _ if character == quote => {
                text.push('\\')?;
                text.push(quote)?;
            }
            _ if is_printable(character) => text.push(character)?,
            _ => escape(text, character)?,
        }
    }
    text.push(quote)
}

fn escape(text: &mut Growing, character: char) -> Result<(), Error> {
    let code = u32::from(character);
    match code {
        ..=0xff => text.print(format_args!("\\x{code:02x}")),
        0x100..=0xffff => text.print(format_args!("\\u{code:04x}")),
        _ => text.print(format_args!("\\U{code:08x}")),
    }
}

/// `str.isprintable` of one character.
pub(super) fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_control();
    }
    // Rust escapes what Python does not print, but after the first character of a string leaves
    // combining marks as they are.
    let mut buffer = [b'a'; 5];
    let length = character.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=length])
        .is_ok_and(|text| text.escape_debug().nth(1) == Some(character))
}
