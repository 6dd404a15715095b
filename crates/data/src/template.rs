use chrono::{DateTime, Local};
use minijinja::value::Kwargs;
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template: the Jinja program that writes a conversation the way the model has learnt it.
///
/// It sees what `apply_chat_template` of Hugging Face's transformers gives it (`utils/chat_template_utils.py`): the
/// variables `messages`, `add_generation_prompt`, `bos_token`, `eos_token` and, always none, `tools` and `documents`;
/// the functions `raise_exception` and `strftime_now`; the filter `tojson` with Python's spacing; `break` and
/// `continue`; Python's methods of strings, lists and dictionaries. `trim_blocks` and `lstrip_blocks` are on.
/// The block `{% generation %}` is not known.
///
/// The time that `strftime_now` prints is that of the template's construction, so that one run has one date; it does
/// not enter the fingerprint, so that prepared data stay valid tomorrow.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    fingerprint: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// A template from its source, with the text of the model's bos and eos tokens (empty where there is none).
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self> {
        Self::new_at(source, bos_token, eos_token, Local::now())
    }

    fn new_at(source: &str, bos_token: Option<&str>, eos_token: Option<&str>, now: DateTime<Local>) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| strftime(now, &format));
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| Error::Template {
            problem: format!("it does not parse ({})", describe(&error)),
            remedy: "give the template that came with the model".into(),
        })?;

        let (bos_token, eos_token) = (bos_token.unwrap_or_default(), eos_token.unwrap_or_default());
        let mut fingerprint = Fingerprint::new("chat template");
        fingerprint.add_all([source, bos_token, eos_token].iter());
        Ok(Self { environment, bos_token: bos_token.into(), eos_token: eos_token.into(), fingerprint: fingerprint.finish() })
    }

    /// The conversation as text; with `add_generation_prompt`, followed by what opens the assistant's next turn.
    ///
    /// # Errors
    /// If the template fails or refuses these messages (`raise_exception`).
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.turns(messages).render(messages.len(), add_generation_prompt)
    }

    /// The conversation, to render the first turns of it, too.
    pub(crate) fn turns(&self, messages: &[Message]) -> Turns<'_> {
        Turns { template: self, messages: messages.iter().map(Value::from_serialize).collect() }
    }

    /// A hash of the template and its special tokens.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// A conversation as its template sees it, made once for all its renderings: those of its first turns would otherwise cost more than the tokens.
pub(crate) struct Turns<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Value>,
}

impl Turns<'_> {
    /// The first `count` turns as text.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub(crate) fn render(&self, count: usize, add_generation_prompt: bool) -> Result<String> {
        let ChatTemplate { environment, bos_token, eos_token, .. } = self.template;
        let variables = context! {
            messages => self.messages[..count].to_vec(),
            add_generation_prompt,
            bos_token,
            eos_token,
            tools => (),
            documents => (),
        };
        environment.get_template(NAME).and_then(|template| template.render(variables)).map_err(|error| Error::Template {
            problem: format!("a conversation does not render ({})", describe(&error)),
            remedy: "check the roles and their order, or the template".into(),
        })
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The template inside SmolLM2-135M-Instruct.
    pub(crate) const SMOLLM2: &str = include_str!("../tests/fixtures/smollm2.jinja");

    fn conversation() -> Vec<Message> {
        vec![Message::new("user", "Hi"), Message::new("assistant", "Hello!")]
    }

    fn render(source: &str) -> Result<String> {
        ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&conversation(), true)
    }

    #[test]
    fn smollm2_writes_chatml_with_its_system_prompt() {
        let template = ChatTemplate::new(SMOLLM2, None, None).unwrap();
        let system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
        let turns = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n";
        assert_eq!(template.render(&conversation(), false).unwrap(), format!("{system}{turns}"));
        let open = template.render(&conversation()[..1], true).unwrap();
        assert_eq!(open, format!("{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"));
    }

    #[test]
    fn knows_what_templates_of_other_models_use() {
        assert_eq!(render("{{ bos_token }}{% if tools is not none %}tools{% endif %}{{ eos_token }}").unwrap(), "<s></s>");
        assert_eq!(render("{{ messages[0].content.strip().upper() }}").unwrap(), "HI");
        assert_eq!(
            render("{%- for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}{{ m.role }}\n{%- endfor %}").unwrap(),
            "assistant"
        );
        assert_eq!(
            render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}").unwrap(),
            "2"
        );
        assert_eq!(render("{{ messages[:1] | tojson }}").unwrap(), r#"[{"role": "user", "content": "Hi"}]"#);
    }

    #[test]
    fn blocks_leave_no_white_space() {
        assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc").unwrap(), "a\nb\nc");
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn dates_follow_strftime_and_a_bad_format_is_an_error() {
        let now = DateTime::from_timestamp(0, 0).unwrap().with_timezone(&Local);
        let render = |format: &str| {
            let source = format!("{{{{ strftime_now('{format}') }}}}");
            ChatTemplate::new_at(&source, None, None, now).unwrap().render(&[], false)
        };
        assert_eq!(render("%d %b %Y").unwrap(), now.format("%d %b %Y").to_string());
        assert!(render("%!").unwrap_err().to_string().contains("strftime_now"));
    }

    #[test]
    fn a_template_that_does_not_parse_says_where() {
        let error = ChatTemplate::new("\n{% for %}", None, None).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
