//! `tojson` of transformers: Python's `json.dumps`.

use minijinja::{Error, State, Value};

use crate::jinja::arguments::{bind, is_true};
use crate::jinja::growing::Growing;
use crate::jinja::limits::{MAX_DEPTH, charge};
use crate::jinja::operators::compare;
use crate::jinja::printing;
use crate::jinja::types::{Type, fail, index_of, pairs_of, str_of, type_name, type_of};

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(in crate::jinja) fn tojson(_: &State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = bind("tojson", &arguments[1..], names)?;
    let indent = indentation(indent.as_ref())?;
    let default = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    let (item, key) = separators.filter(|separators| !separators.is_none()).map_or(
        Ok(default),
        |separators| match &crate::jinja::types::items_of(&separators)?[..] {
            [item, key] => Ok((
                str_of(item, "a separator")?.to_owned(),
                str_of(key, "a separator")?.to_owned(),
            )),
            _ => fail("`separators` of `tojson` are two strings"),
        },
    )?;
    let (ensure_ascii, sort_keys) =
        (is_true(ensure_ascii.as_ref(), false), is_true(sort_keys.as_ref(), false));
    let mut writer =
        Writer { text: Growing::default(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(&arguments[0], 0)?;
    Ok(Value::from(writer.text.into_string()))
}

fn indentation(indent: Option<&Value>) -> Result<Option<String>, Error> {
    let Some(indent) = indent.filter(|indent| !indent.is_none()) else { return Ok(None) };
    if let Some(indent) = indent.as_str() {
        return Ok(Some(indent.to_owned()));
    }
    let width = usize::try_from(index_of(indent, "`indent`")?).unwrap_or(0);
    charge(width)?;
    Ok(Some(" ".repeat(width)))
}

struct Writer {
    text: Growing,
    ensure_ascii: bool,
    indent: Option<String>,
    /// Between items.
    item: String,
    /// Between key and value.
    key: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return fail("`tojson` of a value that is nested too deeply");
        }
        charge(8)?;
        match type_of(value) {
            Type::None => self.text.push_str("null")?,
            Type::Bool(value) => self.text.push_str(if value { "true" } else { "false" })?,
            Type::Int(value) => self.text.print(value)?,
            Type::Float(value) => self.text.push_str(&float(value))?,
            Type::Str(text) => self.string(text)?,
            Type::List | Type::Tuple(_) => {
                self.text.push('[')?;
                let mut empty = true;
                for item in value.try_iter()? {
                    self.separate(std::mem::take(&mut empty), depth + 1)?;
                    self.value(&item, depth + 1)?;
                }
                self.close(']', empty, depth)?;
            }
            Type::Dict(dict) => self.mapping(pairs_of(dict), depth)?,
            _ => {
                return fail(format!(
                    "an object of type {} is not JSON serializable",
                    type_name(value)
                ));
            }
        }
        Ok(())
    }

    fn mapping(&mut self, mut pairs: Vec<(Value, Value)>, depth: usize) -> Result<(), Error> {
        if self.sort_keys {
            let mut failure = Ok(());
            pairs.sort_by(|(a, _), (b, _)| match compare::order(a, b) {
                Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                Err(error) => {
                    failure = Err(error);
                    std::cmp::Ordering::Equal
                }
            });
            failure?;
        }
        self.text.push('{')?;
        let mut empty = true;
        for (key, value) in &pairs {
            self.separate(std::mem::take(&mut empty), depth + 1)?;
            match type_of(key) {
                Type::Str(key) => self.string(key)?,
                Type::None => self.text.push_str("\"null\"")?,
                Type::Bool(key) => {
                    self.text.push_str(if key { "\"true\"" } else { "\"false\"" })?
                }
                Type::Int(key) => self.text.print(format_args!("\"{key}\""))?,
                Type::Float(key) => self.text.print(format_args!("\"{}\"", float(key)))?,
                _ => {
                    return fail(format!(
                        "a key of type {} is not JSON serializable",
                        type_name(key)
                    ));
                }
            }
            self.text.push_str(&self.key)?;
            self.value(value, depth + 1)?;
        }
        self.close('}', empty, depth)
    }

    fn separate(&mut self, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            self.text.push_str(&self.item)?;
        }
        self.line(depth)
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) -> Result<(), Error> {
        if !empty {
            self.line(depth)?;
        }
        self.text.push(bracket)?;
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            self.text.push('\n')?;
            for _ in 0..depth {
                self.text.push_str(indent)?;
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        charge(text.len())?;
        self.text.push('"')?;
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\"")?,
                '\\' => self.text.push_str("\\\\")?,
                '\n' => self.text.push_str("\\n")?,
                '\r' => self.text.push_str("\\r")?,
                '\t' => self.text.push_str("\\t")?,
                '\x08' => self.text.push_str("\\b")?,
                '\x0c' => self.text.push_str("\\f")?,
                '\0'..='\x1f' => {
                    self.text.print(format_args!("\\u{:04x}", u32::from(character)))?
                }
                _ if !self.ensure_ascii || (' '..='~').contains(&character) => {
                    self.text.push(character)?
                }
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.text.print(format_args!("\\u{unit:04x}"))?;
                    }
                }
            }
        }
        self.text.push('"')?;
        Ok(())
    }
}

fn float(value: f64) -> String {
    match (value.is_nan(), value.is_infinite()) {
        (true, _) => "NaN".into(),
        (_, true) => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => printing::float(value),
    }
}
