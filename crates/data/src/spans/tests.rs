//! The tokenizer of these tests has three special tokens: `<|endoftext|>`, `<|im_start|>` and
//! `<|im_end|>`, the last of which is eos.

mod recorded;

use serde_json::json;

use crate::encode::tests::{conversation, encode};
use crate::message::{Conversation, Message};
use crate::options::LossOn;
use crate::record::Record;
use crate::template::tests::SMOLLM2;

const TALK: [(&str, &str); 4] =
    [("user", "Hello"), ("assistant", "Hi"), ("user", "and?"), ("assistant", "Good")];

fn runs(template: &str, turns: &[(&str, &str)]) -> Vec<String> {
    conversation(template, turns).unwrap().1
}

fn json_runs(template: &str, messages: serde_json::Value) -> Vec<String> {
    let messages = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| Message::from_fields(message.as_object().unwrap().clone()));
    let conversation = Conversation::new(messages.collect());
    encode(template, LossOn::Assistant, Record::Conversation(conversation)).unwrap().1
}

#[test]
fn history_without_the_thought_of_the_last_turn() {
    // As Qwen3: only the last answer has a thought, here an empty one.
    let template = "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
        {% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}\
        {{ m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    assert_eq!(runs(template, &TALK), ["Hi<|im_end|>", "<think>\n\n</think>\n\nGood<|im_end|>"]);
    // The header of this prompt has the empty thought, too; an answer that begins like it is not
    // cut.
    let closed = template.replace(
        "assistant\\n' }}{% endif %}",
        "assistant\\n<think>\\n\\n</think>\\n\\n' }}{% endif %}",
    );
    let talk = [("user", "a"), ("assistant", "<b>"), ("user", "c"), ("assistant", "<think>")];
    assert_eq!(runs(&closed, &talk), ["<b><|im_end|>", "<think><|im_end|>"]);
}

#[test]
fn turns_that_end_with_plain_text_and_eos_at_the_very_end_only() {
    let template = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}";
    assert_eq!(runs(template, &TALK), ["Hi<|end|>\n", "Good<|end|>\n<|im_end|>"]);
}

#[test]
fn a_prompt_that_opens_a_thought_which_the_text_has_not() {
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m.content }}{% else %}{{ '<|endoftext|>' + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|endoftext|><think>\\n' }}{% endif %}";
    assert_eq!(runs(template, &TALK), ["Hi<|im_end|>", "Good<|im_end|>"]);
    let thoughts = [
        ("user", "a"),
        ("assistant", "<think>x</think>b"),
        ("user", "c"),
        ("assistant", "<think>y</think>d"),
    ];
    assert_eq!(runs(template, &thoughts), ["b<|im_end|>", "d<|im_end|>"]);
}

#[test]
fn a_system_turn_that_moves_to_the_last_question() {
    // As Mistral: the system prompt stands in the last user turn, so that no prompt is a prefix of
    // the whole.
    let template = "{% set ns = namespace(system='', last=0) %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% elif m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\
        {% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}{% if loop.index0 == ns.last %}{{ ns.system + '\\n\\n' }}{% endif %}{{ m.content + '[/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}";
    let talk = [&[("system", "Be brief.")], &TALK[..]].concat();
    assert_eq!(runs(template, &talk), [" Hi<|im_end|>", " Good<|im_end|>"]);
}

#[test]
fn a_prompt_at_the_end_of_every_rendering_is_not_trained() {
    // The first template of Llama 3.
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n\\n' + m.content | trim + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\\n\\n' }}";
    assert_eq!(runs(template, &TALK), ["Hi<|im_end|>", "Good<|im_end|>"]);
}

#[test]
fn the_next_roles_token_ends_a_turn() {
    // As GLM-4, with the special tokens that are here for the roles.
    let template = "{% for m in messages %}{{ ('<|im_start|>' if m.role == 'user' else '<|endoftext|>') + '\\n' + m.content }}{% endfor %}{% if add_generation_prompt %}<|endoftext|>{% endif %}";
    let (text, runs) = conversation(template, &TALK).unwrap();
    assert_eq!(runs, ["\nHi<|im_start|>", "\nGood<|im_start|>"]);
    assert!(text.ends_with("Good<|im_start|>"), "{text}");
}

#[test]
fn eos_ends_what_the_template_ends_with_nothing() {
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    assert_eq!(
        conversation(template, &TALK).unwrap(),
        ("HelloHiand?Good<|im_end|>".into(), vec!["Hi".into(), "Good<|im_end|>".into()])
    );
}

#[test]
fn a_conversation_that_begins_with_the_assistant() {
    assert_eq!(
        runs(SMOLLM2, &[("assistant", "a"), ("user", "b"), ("assistant", "c")]),
        ["a<|im_end|>", "c<|im_end|>"]
    );
}

#[test]
fn two_answers_in_a_row_and_an_empty_one() {
    let talk = [
        ("user", "a"),
        ("assistant", "b"),
        ("assistant", "c"),
        ("user", "d"),
        ("assistant", ""),
        ("user", "e"),
        ("assistant", " "),
    ];
    assert_eq!(runs(SMOLLM2, &talk), ["b<|im_end|>", "c<|im_end|>", "<|im_end|>", " <|im_end|>"]);
}

#[test]
fn white_space_around_contents_may_be_stripped() {
    let talk = [("user", " a "), ("assistant", "\n b\n"), ("user", "c"), ("assistant", "d ")];
    assert_eq!(runs(SMOLLM2, &talk), ["\n b\n<|im_end|>", "d <|im_end|>"]);
    let strips = SMOLLM2.replace("message['content']", "message['content'].strip()");
    assert_eq!(runs(&strips, &talk), ["b<|im_end|>", "d<|im_end|>"]);
}

#[test]
fn a_template_that_looks_at_the_contents_is_asked_again_turn_by_turn() {
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.content.startswith('Hel') %}!{% endif %}{{ m.content + '<|im_end|>\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    assert_eq!(runs(template, &TALK), ["Hi<|im_end|>", "Good<|im_end|>"]);
}

#[test]
fn turns_that_the_template_drops_are_passed_over() {
    let template = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }};{% endif %}{% endfor %}";
    assert_eq!(runs(template, &TALK), ["Good;"]);
}

/// Writes thoughts, contents and calls, with special tokens around calls.
const TOOLS: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}\
    {% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content or '' }}\
    {% for c in m.tool_calls or [] %}{{ '<|endoftext|>' + c.function.name + ' ' + (c.function.arguments | tojson) + '<|endoftext|>' }}{% endfor %}\
    {{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

#[test]
fn calls_are_trained_to_their_end() {
    let call = |arguments: serde_json::Value| json!([{"type": "function", "function": {"name": "f", "arguments": arguments}}]);
    let talk = |arguments: serde_json::Value| {
        json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": call(arguments)},
            {"role": "tool", "content": "40"},
            {"role": "assistant", "content": "b", "reasoning_content": "r"},
        ])
    };
    for (arguments, written) in [
        (json!({"x": "north"}), r#"{"x": "north"}"#),
        (json!({"x": 3}), r#"{"x": 3}"#),
        (json!({}), "{}"),
    ] {
        let expected = [
            format!("<|endoftext|>f {written}<|endoftext|><|im_end|>"),
            "<think>r</think>b<|im_end|>".into(),
        ];
        assert_eq!(json_runs(TOOLS, talk(arguments.clone())), expected);
        // OpenAI's own form: arguments as JSON in a text.
        assert_eq!(json_runs(TOOLS, talk(arguments.to_string().into())), expected);
    }
}

#[test]
fn parts_of_text_are_their_text() {
    let parts = |role: &str, text: &str| json!({"role": role, "content": [{"type": "text", "text": text}, {"type": "text", "text": "!"}]});
    let talk = json!([parts("user", "a"), parts("assistant", "b")]);
    assert_eq!(json_runs(SMOLLM2, talk.clone()), ["b!<|im_end|>"]);
    let knows = SMOLLM2.replace(
        "message['content']",
        "(message.content if message.content is string else message.content | map(attribute='text') | join('+'))",
    );
    assert_eq!(json_runs(&knows, talk), ["b+!<|im_end|>"]);
}

#[test]
fn a_mark_in_the_data_is_refused() {
    let message = conversation(SMOLLM2, &[("user", "a\u{FDD0}"), ("assistant", "b")]).unwrap_err();
    assert!(message.starts_with("record: ") && message.contains("U+FDD0"), "{message}");
}

fn refusal(template: &str, messages: serde_json::Value) -> String {
    let messages = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|message| Message::from_fields(message.as_object().unwrap().clone()));
    encode(template, LossOn::Assistant, Record::Conversation(Conversation::new(messages.collect())))
        .unwrap_err()
}

#[test]
fn calls_that_are_not_written_are_refused_each() {
    let template = TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]");
    let call = |name: &str| json!({"function": {"name": name, "arguments": {"x": 3}}});
    let talk = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [call("f"), call("g")]}]);
    assert!(refusal(&template, talk).contains("does not write all 2 of the tool calls of turn 2"));
    // As DeepSeek-V3: a call is written only where there is no content.
    let template =
        TOOLS.replace("m.tool_calls or []", "((m.tool_calls or []) if m.content is none else [])");
    let talk = |content: &str| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": content, "tool_calls": [call("f")]}]);
    assert!(refusal(&template, talk("words")).contains("does not write the tool calls of turn 2"));
    assert_eq!(json_runs(&template, talk("")), json_runs(TOOLS, talk("")));
}

#[test]
fn a_thought_without_an_answer_is_trained_where_it_is_written_and_refused_elsewhere() {
    let talk = |content: serde_json::Value| json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": content, "reasoning_content": "hm"}]);
    assert_eq!(json_runs(TOOLS, talk(json!(null))), ["<think>hm</think><|im_end|>"]);
    assert!(refusal(SMOLLM2, talk(json!(""))).contains("turn 2 has only a thought"));
    // A template that adds up texts would print Python's None.
    let template = TOOLS.replace("{{ m.content or '' }}", "{{ m.content }}");
    assert_eq!(json_runs(&template, talk(json!(null))), ["<think>hm</think><|im_end|>"]);
}

#[test]
fn arguments_are_texts_for_a_template_that_adds_them_up() {
    // As DeepSeek-V3.
    let template = TOOLS.replace("(c.function.arguments | tojson)", "c.function.arguments");
    let talk = |arguments: serde_json::Value| {
        let call = json!([{"function": {"name": "f", "arguments": arguments}}]);
        json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": call}])
    };
    let expected = ["<|endoftext|>f {\"x\": [1, \"é\"]}<|endoftext|><|im_end|>"];
    assert_eq!(json_runs(&template, talk(json!({"x": [1, "é"]}))), expected);
    assert_eq!(json_runs(&template, talk(json!("{\"x\": [1, \"é\"]}"))), expected);
}

#[test]
fn arguments_of_any_kind_are_trained() {
    for arguments in [json!(null), json!([]), json!([1]), json!(5), json!("text")] {
        let call = json!([{"function": {"name": "f", "arguments": arguments}}]);
        let talk = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": call}]);
        let runs = json_runs(TOOLS, talk);
        assert!(runs.len() == 1 && runs[0].contains("f "), "{arguments}: {runs:?}");
    }
}
