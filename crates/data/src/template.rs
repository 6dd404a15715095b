use std::sync::{LazyLock, OnceLock};

use chrono::{DateTime, Local};
use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::jinja::{self, Program};
use crate::message::{Conversation, Message, THOUGHTS};
use crate::record::is_worth_naming;
use crate::tokenizer::SpecialTokens;

/// A model's chat template: the Jinja program that writes a conversation the way the model has
/// learned it.
///
/// It sees what `apply_chat_template` of Hugging Face's transformers gives it
/// (`utils/chat_template_utils.py`): the variables `messages`, `tools`, `documents`,
/// `add_generation_prompt`, the special tokens that the tokenizer has (`bos_token`, `eos_token`, …)
/// and those of the conversation's own; the functions `raise_exception` and `strftime_now`; the
/// filter `tojson` with Python's spacing; `break`, `continue` and `{% generation %}`; Python's
/// methods of strings, lists and dictionaries. `trim_blocks` and `lstrip_blocks` are on.
///
/// The time that `strftime_now` prints is that of the template's construction, so that one run has
/// one date; it does not enter the fingerprint, so that prepared data stay valid tomorrow.
#[derive(Debug)]
pub struct ChatTemplate {
    program: Program,
    source: String,
    special_tokens: Vec<(&'static str, String)>,
    fingerprint: String,
    accepts: OnceLock<Accepts>,
    tool_use: Option<Box<ChatTemplate>>,
}

/// Forms of a conversation that some templates write as they are meant, and others as Python prints
/// a list or as a quoted string.
#[derive(Debug)]
struct Accepts {
    /// Contents as lists of parts.
    parts: bool,
    /// Contents as strings, which some templates of models that see images pass over.
    strings: bool,
    arguments: Arguments,
    /// Null as the content of a turn that only reasons: some print Python's `None`.
    null: bool,
    /// Contents with which a turn that says nothing but its call is written, by [`BLANK`].
    blank: [bool; 3],
    /// Answers of tools under OpenAI's older role `function`.
    function_role: bool,
}

/// How the arguments of calls are written as they are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    Objects,
    /// JSON in a string.
    Texts,
    Both,
}

/// The contents of a turn that says nothing.
const BLANK: [fn(&mut Map<String, Json>); 3] = [
    |fields| _ = fields.insert("content".into(), "".into()),
    |fields| _ = fields.insert("content".into(), Json::Null),
    |fields| _ = fields.shift_remove("content"),
];

impl ChatTemplate {
    /// A template from its source, with the text of the model's bos and eos tokens, where it has
    /// them.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self> {
        Self::new_at(source, &[("bos_token", bos_token), ("eos_token", eos_token)], Local::now())
    }

    /// The same with the special tokens of a tokenizer.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn with_special_tokens(source: &str, special: &SpecialTokens) -> Result<Self> {
        let tokens = [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("unk_token", &special.unk),
            ("pad_token", &special.pad),
        ];
        Self::new_at(source, &tokens.map(|(name, token)| (name, token.as_deref())), Local::now())
    }

    fn new_at(
        source: &str,
        special_tokens: &[(&'static str, Option<&str>)],
        now: DateTime<Local>,
    ) -> Result<Self> {
        let program = Program::parse(source, now).map_err(|problem| Error::Template {
            problem: format!("it does not parse ({problem})"),
            remedy: "name another one as [model] chat_template".into(),
        })?;
        let given =
            special_tokens.iter().filter_map(|&(name, token)| Some((name, token?.to_owned())));
        let special_tokens: Vec<(&str, String)> = given.collect();
        let mut fingerprint = Fingerprint::new("chat template");
        fingerprint.add(source);
        fingerprint.add(format!("{special_tokens:?}"));
        let (source, fingerprint) = (source.to_owned(), fingerprint.finish());
        Ok(Self {
            program,
            source,
            special_tokens,
            fingerprint,
            accepts: OnceLock::new(),
            tool_use: None,
        })
    }

    /// The same with another template for conversations that have tools, as transformers chooses
    /// among several (`get_chat_template`).
    #[must_use]
    pub fn with_tool_use(mut self, tool_use: Self) -> Self {
        let mut fingerprint = Fingerprint::new("chat templates");
        fingerprint.add(&self.fingerprint);
        fingerprint.add(&tool_use.fingerprint);
        self.fingerprint = fingerprint.finish();
        self.tool_use = Some(Box::new(tool_use));
        self
    }

    /// The conversation as text; with `add_generation_prompt`, followed by what opens the
    /// assistant's next turn.
    ///
    /// # Errors
    /// If the template fails or refuses these messages (`raise_exception`).
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_conversation(&Conversation::new(messages.to_vec()), add_generation_prompt)
    }

    /// The same, of a conversation with tools and variables of its own.
    ///
    /// # Errors
    /// If the template fails or refuses it.
    pub fn render_conversation(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let chat = self.chat(conversation.clone());
        chat.render(chat.messages(), add_generation_prompt)
    }

    /// A conversation in the form that this template writes, made once for all its renderings.
    pub(crate) fn chat(&self, mut conversation: Conversation) -> Chat<'_> {
        if let Some(tool_use) = self.tool_use.as_ref().filter(|_| conversation.tools.is_some()) {
            return tool_use.chat(conversation);
        }
        for message in &mut conversation.messages {
            self.adapt(message);
        }
        let variables = self.variables(&conversation);
        let messages =
            conversation.messages.iter().map(|message| value_of(message.fields())).collect();
        Chat { template: self, conversation, variables, messages }
    }

    /// A hash of the template and its special tokens.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the template names a key at all: `reasoning` is not named by `reasoning_content`.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        self.source.split(|character| !is_word(character)).any(|word| word == key)
    }

    fn variables(&self, conversation: &Conversation) -> Vec<(String, minijinja::Value)> {
        let option =
            |value: &Option<Json>| value.as_ref().map_or(minijinja::Value::from(()), jinja::value);
        let mut variables = vec![
            ("tools".to_owned(), option(&conversation.tools)),
            ("documents".to_owned(), option(&conversation.documents)),
        ];
        variables.extend(
            self.special_tokens
                .iter()
                .map(|(name, token)| ((*name).to_owned(), token.as_str().into())),
        );
        variables.extend(
            conversation
                .template_kwargs
                .iter()
                .map(|(name, value)| (name.clone(), jinja::value(value))),
        );
        variables
    }

    /// Gives contents and arguments the form that the template knows. Parts that are all text mean
    /// the same as their text, and arguments the same as the object that they spell; a template
    /// that does not know a form would write brackets or a quoted string.
    fn adapt(&self, message: &mut Message) {
        if let Some(Json::Array(parts)) = message.fields().get("content")
            && !self.accepts().parts
        {
            let text: String = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            message.fields_mut().insert("content".into(), text.into());
        }
        if let Some(Json::String(text)) = message.fields().get("content")
            && !self.accepts().strings
        {
            let parts = json!([{"type": "text", "text": text}]);
            message.fields_mut().insert("content".into(), parts);
        }
        if message.role() == "function" && !self.accepts().function_role {
            message.fields_mut().insert("role".into(), "tool".into());
        }
        if message.has_tool_calls() {
            self.adapt_calls(message.fields_mut());
        } else if message.is_assistant()
            && blank(message.fields()).is_some_and(|form| form > 0)
            && !self.accepts().null
        {
            message.fields_mut().insert("content".into(), "".into());
        }
    }

    fn adapt_calls(&self, fields: &mut Map<String, Json>) {
        let accepts = self.accepts();
        if let Some(Json::Array(calls)) = fields.get_mut("tool_calls") {
            match accepts.arguments {
                Arguments::Objects => calls.iter_mut().for_each(parse_arguments),
                Arguments::Texts => calls.iter_mut().for_each(print_arguments),
                Arguments::Both => {}
            }
        }
        if let Some(form) = blank(fields)
            && !accepts.blank[form]
            && let Some(written) = accepts.blank.iter().position(|&written| written)
        {
            BLANK[written](fields);
        }
    }

    fn accepts(&self) -> &Accepts {
        self.accepts.get_or_init(|| {
            let render = |messages: Json| {
                let turns = messages.as_array().into_iter().flatten().filter_map(Json::as_object).map(value_of).collect();
                self.program.probe(&context(&self.variables(&Conversation::default()), turns, false))
            };
            let user = |content: Json| json!({"role": "user", "content": content});
            let writes = |content: Json| {
                render(json!([user(content)]))
                    .is_some_and(|text| text.contains(PROBE) && !text.contains("'text'") && !text.contains("\"text\""))
            };
            let calling = |form: usize, arguments: Json| {
                let calls = json!([{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}]);
                let mut turn = json!({"role": "assistant", "content": "", "tool_calls": calls});
                turn.as_object_mut().into_iter().for_each(BLANK[form]);
                turn
            };
            let call = |form, arguments| render(json!([user("a".into()), calling(form, arguments)]));
            let first = |arguments: Json| (0..BLANK.len()).find_map(|form| call(form, arguments.clone()));
            let arguments = match (first(json!({"x": PROBE})), first(format!("{{\"x\": \"{PROBE}\"}}").into())) {
                (Some(object), Some(text)) if object == text => Arguments::Both,
                (None, Some(_)) => Arguments::Texts,
                _ => Arguments::Objects,
            };
            let probe = || if arguments == Arguments::Texts { PROBE.into() } else { json!({"x": PROBE}) };
            let answered = |role: &str| {
                let calling = (0..BLANK.len()).find(|&form| call(form, probe()).is_some()).map(|form| calling(form, probe()));
                let answer = json!({"role": role, "name": "f", "tool_call_id": "abcdefghi", "content": "zqvjk"});
                render(json!([user("a".into()), calling, answer])).is_some_and(|text| text.contains("zqvjk"))
            };
            let reasoning = render(json!([user("a".into()), {"role": "assistant", "content": null, "reasoning_content": "b"}]));
            let parts = writes(json!([{"type": "text", "text": PROBE}]));
            Accepts {
                parts,
                strings: !parts || writes(PROBE.into()),
                arguments,
                null: reasoning.is_some_and(|text| !text.contains("None")),
                blank: [0, 1, 2].map(|form| call(form, probe()).is_some_and(|text| text.contains(PROBE))),
                function_role: answered("function") || !answered("tool"),
            }
        })
    }
}

/// Which of [`BLANK`] this is, if it is one: white space says nothing, either.
fn blank(fields: &Map<String, Json>) -> Option<usize> {
    match fields.get("content") {
        Some(Json::String(text)) => text.trim().is_empty().then_some(0),
        Some(Json::Null) => Some(1),
        None => Some(2),
        Some(_) => None,
    }
}

/// A word that no template has.
const PROBE: &str = "qzjxv";

fn parse_arguments(call: &mut Json) {
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    if let Some(Json::String(text)) = function.get("arguments")
        && let Ok(arguments @ Json::Object(_)) = serde_json::from_str(text)
    {
        function["arguments"] = arguments;
    }
}

/// As Python's `json.dumps` prints them.
fn print_arguments(call: &mut Json) {
    static PRINT: LazyLock<Option<Program>> =
        LazyLock::new(|| Program::parse("{{ arguments | tojson }}", Local::now()).ok());
    let function = if call.get("function").is_some() { &mut call["function"] } else { call };
    if let Some(arguments @ Json::Object(_)) = function.get("arguments") {
        let variables: minijinja::Value =
            [("arguments", jinja::value(arguments))].into_iter().collect();
        if let Some(text) = PRINT.as_ref().and_then(|print| print.render(&variables).ok()) {
            function["arguments"] = text.into();
        }
    }
}

fn value_of(fields: &Map<String, Json>) -> minijinja::Value {
    jinja::value(&Json::Object(fields.clone()))
}

fn render(
    program: &Program,
    variables: &[(String, minijinja::Value)],
    messages: Vec<minijinja::Value>,
    add_generation_prompt: bool,
) -> Result<String> {
    program.render(&context(variables, messages, add_generation_prompt)).map_err(refused)
}

fn context(
    variables: &[(String, minijinja::Value)],
    messages: Vec<minijinja::Value>,
    add_generation_prompt: bool,
) -> minijinja::Value {
    let own = [
        ("messages".to_owned(), messages.into()),
        ("add_generation_prompt".to_owned(), add_generation_prompt.into()),
    ];
    variables.iter().cloned().chain(own).collect()
}

fn refused(problem: String) -> Error {
    Error::Template {
        problem: format!("a conversation does not render ({problem})"),
        remedy: "check the roles and their order, or the template".into(),
    }
}

/// A conversation as its template sees it.
pub(crate) struct Chat<'a> {
    template: &'a ChatTemplate,
    pub(crate) conversation: Conversation,
    variables: Vec<(String, minijinja::Value)>,
    messages: Vec<minijinja::Value>,
}

impl Chat<'_> {
    /// The turns.
    pub(crate) fn messages(&self) -> &[minijinja::Value] {
        &self.messages
    }

    /// A turn with other fields.
    pub(crate) fn message(fields: &Map<String, Json>) -> minijinja::Value {
        value_of(fields)
    }

    /// These turns as text.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub(crate) fn render(
        &self,
        messages: &[minijinja::Value],
        add_generation_prompt: bool,
    ) -> Result<String> {
        render(&self.template.program, &self.variables, messages.to_vec(), add_generation_prompt)
    }

    /// The whole conversation as text, and what `{% generation %}` blocks wrote of it, in order;
    /// none where the template has no such block.
    pub(crate) fn render_whole(&self) -> Result<(String, Option<Vec<std::ops::Range<usize>>>)> {
        let context = context(&self.variables, self.messages.clone(), false);
        // Blocks that cannot be followed, as in a macro, say nothing; the text is the same.
        if self.template.program.has_generation_blocks()
            && let Ok((text, blocks)) = self.template.program.render_with_generation(&context)
        {
            return Ok((text, Some(blocks)));
        }
        Ok((self.template.program.render(&context).map_err(refused)?, None))
    }

    /// Keys that the record gives to the template and that the template does not even name.
    pub(crate) fn unwritten(&self) -> Vec<String> {
        let fields = self.conversation.messages.iter().flat_map(|message| message.fields());
        let is_named = |key: &str| !TURN_KEYS.contains(&key) && is_worth_naming(key);
        let mut found: Vec<&str> = fields
            .filter(|(key, value)| is_named(key) && is_something(value))
            .map(|(key, _)| key.as_str())
            .collect();
        found.extend(self.conversation.tools.as_ref().map(|_| "tools"));
        found.extend(self.conversation.documents.as_ref().map(|_| "documents"));
        found.sort_unstable();
        found.dedup();
        found.retain(|key| !self.template.mentions(key));
        found.into_iter().map(str::to_owned).collect()
    }

    /// The turn that says nothing but a thought which the template does not write.
    pub(crate) fn lost_thought(&self) -> Option<usize> {
        let mentions_thoughts = || THOUGHTS.iter().any(|key| self.template.mentions(key));
        let is_thought_alone = |message: &Message| {
            let thinks =
                THOUGHTS.iter().any(|key| message.fields().get(*key).is_some_and(is_something));
            message.is_assistant()
                && thinks
                && !message.has_tool_calls()
                && blank(message.fields()).is_some()
        };
        self.conversation
            .messages
            .iter()
            .position(is_thought_alone)
            .filter(|_| !mentions_thoughts())
    }

    pub(crate) fn writes_tool_calls(&self) -> bool {
        self.template.mentions("tool_calls")
    }
}

/// Keys of a turn that say who speaks to whom, and what is looked at by itself.
const TURN_KEYS: [&str; 5] = ["role", "content", "tool_calls", "tool_call_id", "name"];

fn is_something(value: &Json) -> bool {
    !(value.is_null() || value.as_str().is_some_and(str::is_empty))
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
        assert_eq!(
            open,
            format!("{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        );
    }

    #[test]
    fn knows_what_templates_of_other_models_use() {
        assert_eq!(
            render("{{ bos_token }}{% if tools is not none %}tools{% endif %}{{ eos_token }}")
                .unwrap(),
            "<s></s>"
        );
        assert_eq!(render("{{ messages[0].content.strip().upper() }}").unwrap(), "HI");
        assert_eq!(
            render("{%- for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}{{ m.role }}\n{%- endfor %}").unwrap(),
            "assistant"
        );
        assert_eq!(
            render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}").unwrap(),
            "2"
        );
        assert_eq!(
            render("{{ messages[:1] | tojson }}").unwrap(),
            r#"[{"role": "user", "content": "Hi"}]"#
        );
    }

    #[test]
    fn blocks_leave_no_white_space() {
        assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc").unwrap(), "a\nb\nc");
    }

    #[test]
    fn tools_choose_the_template_for_them() {
        let new = |source| ChatTemplate::new(source, None, None).unwrap();
        let (plain, both) =
            (new("plain"), new("plain").with_tool_use(new("tools: {{ tools | length }}")));
        let mut conversation = Conversation::new(conversation());
        assert_eq!(both.render_conversation(&conversation, false).unwrap(), "plain");
        conversation.tools = Some(json!([{"type": "function", "function": {"name": "f"}}]));
        assert_eq!(both.render_conversation(&conversation, false).unwrap(), "tools: 1");
        assert_eq!(plain.render_conversation(&conversation, false).unwrap(), "plain");
        assert_ne!(plain.fingerprint(), both.fingerprint());
    }

    #[test]
    fn a_refusal_carries_the_templates_words() {
        let error =
            render("{{ raise_exception('roles must alternate') }}").unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn dates_follow_strftime_and_a_bad_format_is_an_error() {
        let now = DateTime::from_timestamp(0, 0).unwrap().with_timezone(&Local);
        let render = |format: &str| {
            let source = format!("{{{{ strftime_now('{format}') }}}}");
            ChatTemplate::new_at(&source, &[], now).unwrap().render(&[], false)
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
