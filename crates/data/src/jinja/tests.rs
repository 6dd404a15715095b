//! Against jinja2: `ci/jinja_snippets.py` records what it writes.

use serde_json::Value as Json;

use super::*;

const SNIPPETS: &str = include_str!("../../tests/fixtures/jinja.jsonl");

fn at(date: &str) -> DateTime<Local> {
    date.parse::<chrono::NaiveDateTime>().unwrap().and_local_timezone(Local).unwrap()
}

fn parse(source: &str) -> Result<Program, String> {
    Program::parse(source, at("2024-03-05T12:34:56"))
}

fn render(source: &str, variables: &Json) -> Result<(String, Vec<Range<usize>>), String> {
    let program = parse(source)?;
    let variables = value(variables);
    if program.has_generation_blocks() {
        return program.render_with_generation(&variables);
    }
    program.render(&variables).map(|text| (text, Vec::new()))
}

/// What differs between a rendering and what jinja2 did: a text where that refuses, or another
/// text.
fn difference(recorded: &Json, variables: &Json) -> Option<String> {
    let source = recorded["template"].as_str().unwrap();
    let rendered = render(source, variables);
    match (&recorded["text"], &rendered) {
        (Json::String(expected), Ok((text, ranges))) if expected == text => {
            let characters = |at: usize| text[..at].chars().count();
            let ranges: Vec<Json> = ranges
                .iter()
                .map(|range| serde_json::json!([characters(range.start), characters(range.end)]))
                .collect();
            let expected = recorded["generation"].as_array().cloned().unwrap_or_default();
            (ranges != expected)
                .then(|| format!("{source:?}\n  generation {ranges:?}\n  jinja2     {expected:?}"))
        }
        (Json::Null, Err(_)) => None,
        (expected, _) => {
            Some(format!("{source:?}\n  {rendered:?}\n  jinja2 {expected:?} {}", recorded["error"]))
        }
    }
}

#[test]
fn snippets_render_as_in_jinja2() {
    let mut lines = SNIPPETS.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    let variables = lines.next().unwrap()["variables"].take();
    let differences: Vec<String> =
        lines.filter_map(|recorded| difference(&recorded, &variables)).collect();
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// Templates that failed once, in conversations with and without tools, reasoning, images and a
/// system's turn.
#[test]
fn templates_render_conversations_as_in_jinja2() {
    let template = |name: &str| match name {
        "generation.jinja" => include_str!("../../tests/fixtures/templates/generation.jinja"),
        "none_is_iterable.jinja" => {
            include_str!("../../tests/fixtures/templates/none_is_iterable.jinja")
        }
        "smollm3.jinja" => include_str!("../../tests/fixtures/templates/smollm3.jinja"),
        "undefined_has_length_0.jinja" => {
            include_str!("../../tests/fixtures/templates/undefined_has_length_0.jinja")
        }
        other => panic!("{other} is not read by the test"),
    };
    let mut lines = include_str!("../../tests/fixtures/jinja_conversations.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap());
    let conversations = lines.next().unwrap()["conversations"].take();
    for mut recorded in lines {
        recorded["template"] = template(recorded["name"].as_str().unwrap()).into();
        let index = usize::try_from(recorded["conversation"].as_u64().unwrap()).unwrap();
        let difference = difference(&recorded, &conversations[index]);
        assert!(difference.is_none(), "{} {}", recorded["name"], difference.unwrap_or_default());
    }
}

/// `JINJA_REFERENCE=real.jsonl` of `ci/jinja_snippets.py FOLDER` compares the templates of that
/// folder.
#[test]
fn real_templates_render_as_in_jinja2() {
    let Some(path) = std::env::var_os("JINJA_REFERENCE") else { return };
    let recorded = std::fs::read_to_string(path).unwrap();
    let mut count = 0;
    let differences: Vec<String> = recorded
        .lines()
        .filter_map(|line| {
            let recorded: Json = serde_json::from_str(line).unwrap();
            count += 1;
            difference(&recorded, &recorded["variables"]).map(|found| {
                format!("{} {}", recorded["name"], found.chars().take(100_000).collect::<String>())
            })
        })
        .collect();
    println!("{count} renderings");
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// A namespace whose `s` is changed `times` times.
fn repeated(first: &str, times: usize, then: &str) -> String {
    format!(
        "{{% set ns = namespace(s={first}) %}}{{% for i in range({times}) %}}{{% set ns.s = {then} %}}{{% endfor %}}{{{{ ns.s }}}}"
    )
}

#[test]
fn hostile_templates_end_with_an_error() {
    let long = "x".repeat(100_000);
    let nested = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(50_000), close.repeat(50_000))
    };
    let loops = "{% for i in range(100000) %}";
    for source in [
        format!("{loops}{loops}{loops}{{% endfor %}}{{% endfor %}}{{% endfor %}}"),
        repeated("'ab'", 64, "ns.s ~ ns.s"),
        repeated("'ab'", 64, "ns.s + ns.s"),
        repeated("'ab'", 64, "ns.s * 2"),
        repeated("'ab'", 64, "ns.s.replace('a', 'aa')"),
        repeated("'ab'", 64, "ns.s|replace('', 'aa')"),
        repeated("'ab'", 64, "[ns.s, ns.s]|join"),
        repeated("'ab'", 64, "'%s%s' % (ns.s, ns.s)"),
        repeated("'ab'", 64, "'{0}{0}'.format(ns.s)"),
        repeated("[1]", 64, "ns.s + ns.s"),
        repeated("[1]", 64, "[ns.s, ns.s]"),
        repeated("[1]", 100_000, "[ns.s]"),
        repeated("[1]", 100_000, "{'a': ns.s}"),
        repeated("[1]", 100_000, "(ns.s,)"),
        "{{ '%0999999999d' % 1 }}".into(),
        "{{ '%999999999s' % 1 }}".into(),
        "{{ '%.999999999f' % 1 }}".into(),
        "{{ '{:0999999999999d}'.format(1) }}".into(),
        "{{ [1]|tojson(indent=100000000000) }}".into(),
        "{{ 'a\nb'|indent(9000000000) }}".into(),
        "{{ 'a'.ljust(9000000000) }}".into(),
        "{{ 'a'|center(9000000000) }}".into(),
        "{{ [1]|batch(9000000000, 0)|list }}".into(),
        "{{ [1]|slice(9000000000)|list }}".into(),
        "{{ 'a' * 9000000000 }}".into(),
        "{{ 9 ** 9 ** 9 }}".into(),
        "{{ range(1000000) }}".into(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}".into(),
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}".into(),
        format!("{{% set x %}}{loops}{long}{{% endfor %}}{{% endset %}}"),
        format!("{{% macro f() %}}{long}{{% endmacro %}}{loops}{{{{ f() }}}}{{% endfor %}}"),
        format!("{loops}{long}{{% endfor %}}"),
        format!("{{% set s = 'x' * 1000000 %}}{loops}{{{{ s }}}}{{% endfor %}}"),
        format!("{{% set s = 'é' * 1000000 %}}{loops}{{{{ s|length }}}}{{{{ s[-1] }}}}{{{{ 'a' in s }}}}{{% endfor %}}"),
        format!("{{% set ns = namespace() %}}{{% set ns.n = ns %}}{{{{ ns.n }}}}{loops}{{% endfor %}}"),
        format!("{{{{ {} }}}}", nested("(", "1", ")")),
        format!("{{{{ {} }}}}", nested("[", "1", "]")),
        format!("{{{{ {} }}}}", nested("not ", "1", "")),
        format!("{{{{ {} }}}}", nested("-", "1", "")),
        format!("{{{{ {} }}}}", nested("", "x", ".y")),
        format!("{{{{ {} }}}}", nested("", "x", "|upper")),
        format!("{{{{ {} }}}}", nested("", "x", " or y")),
        format!("{{{{ {} }}}}", nested("", "1", " + 1 - 1")),
        format!("{{{{ {} }}}}", nested("", "1", " if 1")),
        nested("{% if x %}", "", "{% endif %}"),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(50_000)),
    ] {
        let rendered = render(&source, &Json::Null);
        assert!(rendered.is_err(), "{} rendered", &source[..source.len().min(200)]);
    }
}

#[test]
fn what_only_looks_hostile_renders() {
    let text = |source: &str| render(source, &Json::Null).unwrap().0;
    assert_eq!(
        text("{{ 'abc'[::-9223372036854775808] }}{{ [1]|batch(9000000000)|list }}"),
        "c[[1]]"
    );
    assert_eq!(
        text("{% for i in range(100000) %}{% for j in range(5) %}{% endfor %}{% endfor %}x"),
        "x"
    );
}

/// The bounds leave room for what conversations can be: many turns, and few long ones.
#[test]
fn long_conversations_render() {
    let template = include_str!("../../tests/fixtures/smollm2.jinja");
    let role = |index: usize| if index.is_multiple_of(2) { "user" } else { "assistant" };
    let turn =
        |index: usize, content: &str| serde_json::json!({"role": role(index), "content": content});
    let many: Vec<Json> = (0..10_000).map(|index| turn(index, "Hi")).collect();
    let long: Vec<Json> = (0..4).map(|index| turn(index, &"é ".repeat(6_000_000))).collect();
    for messages in [many, long] {
        let variables = serde_json::json!({ "messages": messages });
        let (text, _) = render(template, &variables).unwrap();
        assert!(
            text.len()
                > messages.iter().map(|message| message["content"].as_str().unwrap().len()).sum()
        );
        // Each message is looked for among all, and texts are copied several times.
        let costly = "{% for m in messages %}{% for n in messages %}{% if n.role == 'assistant' %}{% break %}{% endif %}{% endfor %}\
                      {{ (m.content|trim + '\n').split('x')[-1].replace('y', 'z') }}{% endfor %}";
        assert!(render(costly, &variables).is_ok());
    }
}

#[test]
fn errors_name_their_line() {
    let error = |source: &str| render(source, &Json::Null).unwrap_err();
    assert!(error("\n{% for %}").ends_with("its line 2"), "{}", error("\n{% for %}"));
    for source in [
        "a\n{{ '\\n' }}\n\n{{ x.y }}",
        "{% if true %}\n\n{{ 'a' }}\n{{ 1 + 'a' }}{% endif %}",
        "{#\n\n#}\n{{ raise_exception('no') }}",
    ] {
        assert!(error(source).ends_with("its line 4"), "{source:?}: {}", error(source));
    }
    assert_eq!(
        error("{{ raise_exception('roles must\nalternate') }}"),
        "roles must alternate, its line 1"
    );
    assert_eq!(error("{{ 'a'|random }}"), "the filter `random` is not supported, its line 1");
}
