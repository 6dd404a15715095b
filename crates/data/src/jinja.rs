//! Chat templates: the part of Jinja that they use, rendered as jinja2 renders it for transformers.
//!
//! The reference is `_compile_jinja_template` of transformers' `utils/chat_template_utils.py`:
//! jinja2's `ImmutableSandboxedEnvironment` with `trim_blocks`, `lstrip_blocks`, the extensions
//! `loopcontrols` and `generation`, the filter `tojson` as `json.dumps`, and the functions
//! `raise_exception` and `strftime_now`. Where something of it is not supported, the template is
//! refused with its name and line; it never writes another text. `ci/jinja_snippets.py` records
//! what jinja2 writes for the tests.
//!
//! A template is parsed and rewritten for minijinja ([`rewrite`]), with Python's types ([`types`])
//! and operators ([`operators`]).

use std::ops::Range;

use chrono::{DateTime, Local};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use self::limits::Bounds;
use crate::guard::caught;

mod arguments;
mod checks;
mod filters;
mod format_spec;
mod functions;
mod growing;
mod lexer;
mod limits;
mod methods;
mod operators;
mod parser;
mod percent;
mod printing;
mod refusal;
mod registry;
mod rewrite;
mod strftime;
mod syntax;
mod text;
mod types;

const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Debug)]
pub(crate) struct Program {
    environment: Environment<'static>,
    has_generation_blocks: bool,
    /// Why the places of generation blocks cannot be told, if they cannot.
    untracked: Option<String>,
}

impl Program {
    /// Parses a template; `now` is what `strftime_now` prints. The error is one line: reason and
    /// line of the template.
    pub(crate) fn parse(source: &str, now: DateTime<Local>) -> Result<Self, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!(
                "it has {} bytes, and at most {MAX_SOURCE} are read",
                source.len()
            ));
        }
        caught(|| Self::parse_unguarded(source, now)).unwrap_or_else(|| Err(PANICKED.to_owned()))
    }

    fn parse_unguarded(source: &str, now: DateTime<Local>) -> Result<Self, String> {
        let body = parser::parse(source).map_err(|refusal| refusal.describe())?;
        let rewritten = rewrite::rewrite(&body).map_err(|refusal| refusal.describe())?;
        let mut environment = registry::environment();
        environment.set_keep_trailing_newline(true);
        environment.set_formatter(print);
        environment
            .add_function("strftime_now", move |format: &str| strftime::strftime(now, format));
        environment.add_template_owned(NAME, rewritten.source).map_err(|error| describe(&error))?;
        let untracked = rewritten.untracked.map(|refusal| refusal.describe());
        Ok(Self { environment, has_generation_blocks: rewritten.has_generation, untracked })
    }

    /// The text for these variables. The error is one line: reason and line of the template.
    pub(crate) fn render(&self, variables: &Value) -> Result<String, String> {
        self.render_tracked(variables).map(|(text, _)| text)
    }

    /// The same for a short conversation by which the template is examined; none if it fails.
    pub(crate) fn probe(&self, variables: &Value) -> Option<String> {
        render(&self.environment, variables, Bounds::Probe).ok().map(|(text, _)| text)
    }

    /// The text, and the byte ranges in it that `{% generation %}` … `{% endgeneration %}` blocks
    /// wrote, in order.
    pub(crate) fn render_with_generation(
        &self,
        variables: &Value,
    ) -> Result<(String, Vec<Range<usize>>), String> {
        match &self.untracked {
            Some(reason) => Err(reason.clone()),
            None => self.render_tracked(variables),
        }
    }

    /// The variables that it may use.
    pub(crate) fn variables(&self) -> Vec<String> {
        let template = self.environment.get_template(NAME);
        template
            .map(|template| template.undeclared_variables(false).into_iter().collect())
            .unwrap_or_default()
    }

    pub(crate) fn has_generation_blocks(&self) -> bool {
        self.has_generation_blocks
    }

    fn render_tracked(&self, variables: &Value) -> Result<(String, Vec<Range<usize>>), String> {
        render(&self.environment, variables, Bounds::Whole).map_err(|error| describe(&error))
    }
}

fn render(
    environment: &Environment<'static>,
    variables: &Value,
    bounds: Bounds,
) -> Result<(String, Vec<Range<usize>>), Error> {
    limits::start(variables, bounds);
    let mut text = limits::Text::default();
    let rendered = caught(|| {
        let template = environment.get_template(NAME)?;
        template.render_captured_to(variables, &mut text).map(|_| ())
    });
    let ranges = limits::finish();
    rendered.unwrap_or_else(|| Err(Error::new(ErrorKind::InvalidOperation, PANICKED)))?;
    let text =
        text.into_string().map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))?;
    Ok((text, ranges))
}

const PANICKED: &str = "the template engine failed on it";
/// Bytes of a template, far above those that any model has.
const MAX_SOURCE: usize = 1 << 20;
/// Characters of a reason, which the template may have written.
const MAX_REASON: usize = 400;

/// What `{{ … }}` writes.
fn print(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    printing::with_str(value, |text| out.write_str(text))?.map_err(Error::from)
}

/// One line: the reason, without what a terminal would obey, and the line of the template.
fn describe(error: &Error) -> String {
    let kind = error.kind().to_string();
    let reason = match error.kind() {
        ErrorKind::WriteFailure => limits::OUTPUT_EXCEEDED,
        _ => error.detail().unwrap_or(&kind),
    };
    let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut reason: String = reason.chars().take(MAX_REASON).map(shown).collect();
    if reason.chars().count() == MAX_REASON {
        reason.push('…');
    }
    error.line().map_or(reason.clone(), |line| format!("{reason}, its line {line}"))
}

/// A JSON value as a template sees it: keys keep their order, and numbers are Python's.
pub(crate) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(key, field)| (key.as_str(), value(field))).collect()
        }
    }
}

#[cfg(test)]
mod tests;
