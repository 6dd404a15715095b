//! The Jinja engine of chat templates.

use std::ops::Range;

use chrono::{DateTime, Local};
use minijinja::value::Kwargs;
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value};
use serde::Serialize;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Program(Environment<'static>);

const NAME: &str = "chat_template";

impl Program {
    pub(crate) fn parse(source: &str, now: DateTime<Local>) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| strftime(now, &format));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| describe(&error))?;
        Ok(Self(environment))
    }

    /// The variables that the template may use.
    pub(crate) fn variables(&self) -> Vec<String> {
        self.0.get_template(NAME).map(|template| template.undeclared_variables(false).into_iter().collect()).unwrap_or_default()
    }

    pub(crate) fn render(&self, variables: &Value) -> Result<String, String> {
        self.0.get_template(NAME).and_then(|template| template.render(variables)).map_err(|error| describe(&error))
    }

    pub(crate) fn has_generation_blocks(&self) -> bool {
        false
    }

    pub(crate) fn render_with_generation(&self, variables: &Value) -> Result<(String, Vec<Range<usize>>), String> {
        Ok((self.render(variables)?, Vec::new()))
    }
}

pub(crate) fn value(json: &serde_json::Value) -> Value {
    Value::from_serialize(json)
}

/// One line: the reason, and the line of the template.
fn describe(error: &JinjaError) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error.line().map_or(reason.clone(), |line| format!("{reason}, its line {line}"))
}

fn strftime(now: DateTime<Local>, format: &str) -> Result<String, JinjaError> {
    use std::fmt::Write;
    let mut text = String::new();
    // `to_string` of a date panics on a format that it does not know; `write!` says so.
    write!(text, "{}", now.format(format))
        .map_err(|_| JinjaError::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the format {format:?}")))?;
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, options: Kwargs) -> Result<Value, JinjaError> {
    let indent: Option<usize> = options.get("indent")?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing)),
    };
    let refused = |reason: String| JinjaError::new(ErrorKind::BadSerialization, reason);
    written.map_err(|error| refused(error.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| refused(error.to_string()))
}

struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
