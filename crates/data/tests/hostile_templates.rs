//! Chat templates that want all memory or all time there is: each ends with one line, and the
//! process has not grown much. A program of its own, so that nothing else grows meanwhile.
#![allow(clippy::unwrap_used, missing_docs)]

use loract_data::{ChatTemplate, Message};

/// Bytes by which the process may grow.
const ROOM: u64 = 700 << 20;

/// The most memory that the process had since it was asked last.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn outcome(source: &str) -> Result<String, String> {
    let conversation = [Message::new("user", "Hi"), Message::new("assistant", "Hello!")];
    ChatTemplate::new(source, Some("<s>"), Some("</s>"))
        .and_then(|template| template.render(&conversation, true))
        .map_err(|error| error.to_string())
}

/// A template that does something with a namespace's `x` many times.
fn kept(first: &str, then: &str) -> String {
    format!(
        "{{% set ns = namespace(x={first}, y=[]) %}}{{% for i in range(100000) %}}{{% for j in range(1000) %}}{{% set ns.x = {then} %}}{{% endfor %}}{{% endfor %}}{{{{ ns.x }}}}"
    )
}

/// A template that does something with a value of a megabyte many times.
fn repeated(value: &str, then: &str) -> String {
    format!(
        "{{% set big = {value} %}}{{% for i in range(100000) %}}{{% for j in range(1000) %}}{{% set y = {then} %}}{{% endfor %}}{{% endfor %}}"
    )
}

fn once(value: &str, then: &str) -> String {
    format!("{{% set big = {value} %}}{{{{ ({then})|length }}}}")
}

/// One operation that makes much of little.
fn large() -> Vec<String> {
    let long = "'a' * 60000000";
    vec![
        once("'\n' * 60000000", "big.split('\n')"),
        once("'\n' * 60000000", "big.rsplit('\n')"),
        once("'\n' * 60000000", "big.splitlines()"),
        once("'\n' * 60000000", "big|indent"),
        once("'a ' * 30000000", "big.split()"),
        once("'a ' * 30000000", "big.rsplit()"),
        once(long, "big|list"),
        once(long, "big|batch(1)|list"),
        once(long, "big|map('upper')|list"),
        once(long, "big|sort"),
        once(long, "big|unique|list"),
        once("'\x01' * 60000000", "big|tojson"),
        once("'\x01' * 30000000", "[big, big, big]|tojson"),
        once("'\x01' * 30000000", "[big, big, big]|string"),
        once("'é' * 30000000", "big|tojson(ensure_ascii=true)"),
        once("'é' * 30000000", "big|urlencode"),
        once("'\u{1f}' * 60000000", "big|urlencode"),
        once("'%c' * 30000000", "strftime_now(big)"),
        once("'{0}' * 30000000", "big.format('')"),
        once("'%%' * 30000000", "big % ()"),
        once(long, &format!("'' {}", "~ big ".repeat(2000))),
        once("[[1]] * 2000000", "big|batch(1)|batch(1)|list"),
        once("dict({'a': 1})", "[big] * 5000000"),
        "{{ [1]|slice(9000000000)|list }}{{ [1]|batch(9000000000, 0)|list }}".into(),
        "{{ [1]|tojson(indent=1000000000) }}".into(),
        "{{ [1]|tojson(separators=['a' * 100000000, 'b']) }}".into(),
        "{{ 'a\nb'|indent(9000000000) }}".into(),
        "{{ '%0999999999d' % 1 }}".into(),
        "{{ raise_exception('a' * 100000000) }}".into(),
    ]
}

/// Little by little.
fn growing() -> Vec<String> {
    vec![
        kept("'ab'", "ns.x ~ ns.x"),
        kept("'ab'", "ns.x * 2"),
        kept("'ab'", "ns.x|replace('a', 'aa')"),
        kept("'ab'", "[ns.x, ns.x]|join"),
        kept("'ab'", "'%s%s'|format(ns.x, ns.x)"),
        kept("(1, 2) * 100000", "ns.x[1:] + (1,)"),
        kept("[]", "ns.x + [(1, 2) * 1000]"),
        kept("{}", "dict(ns.x, **{'a' ~ i ~ '-' ~ j: 'b' * 100})"),
        "{% for i in range(100000) %}{% for j in range(1000) %}{% macro m() %}{{ j }}{% endmacro %}{% endfor %}{% endfor %}".into(),
        "{% macro m() %}{{ caller() }}{% endmacro %}{% for i in range(100000) %}{% for j in range(1000) %}{% call m() %}{{ j }}{% endcall %}{% endfor %}{% endfor %}".into(),
    ]
}

/// Nested more and more deeply, which only the end would show.
fn nested() -> Vec<String> {
    let straight = |statement: &str| format!("{{% set x = [] %}}{}", statement.repeat(40_000));
    vec![
        kept("[1]", "[ns.x]|reverse"),
        kept("[1]", "[ns.x]|batch(1)"),
        kept("[1]", "[ns.x]|select"),
        kept("[1]", "[ns.x].index"),
        kept("[1]", "{'a': ns.x}.items()"),
        kept("[1]", "joiner(ns.x)"),
        kept("[1]", "cycler(ns.x)"),
        kept("[1]", "namespace(a=ns.x)"),
        kept("[1]", "(ns.x, ns.x)"),
        straight("{% set x = [x] %}"),
        straight("{% set x = {'a': x} %}"),
        straight("{% set x = (x,) %}"),
        straight("{% set x = {1 + 1: x} %}"),
        straight("{% set x = cycler(x) %}"),
        straight("{% set x = dict(a=x) %}"),
        format!("{{% set x = [1] %}}{}", "{% set x = x|batch(1)|list %}".repeat(30_000)),
        format!("{{% set x = [1] %}}{}", "{% set x = x|groupby(0) %}".repeat(30_000)),
        format!(
            "{{% macro f(x, n) %}}{{% if n %}}{{{{ f({}x{}, n - 1) }}}}{{% else %}}{{{{ x|length }}}}{{% endif %}}{{% endmacro %}}{{{{ f(1, 120) }}}}",
            "[".repeat(40),
            "]".repeat(40)
        ),
        "{% macro f(t, n) %}{% if n %}{{ f((t, t), n - 1) }}{% else %}{{ {t: 1}[t] }}{{ t in {} }}{% endif %}{% endmacro %}{{ f(1, 100) }}".into(),
    ]
}

/// Long work that looks like a single step.
fn long() -> Vec<String> {
    let (text, list) = ("'a' * 1000000", "[1] * 100000");
    vec![
        repeated(list, "100001 in big"),
        repeated("range(100000)", "100001 in big"),
        repeated(list, "big == [1] * 100000"),
        repeated("range(100000)", "big == range(100000)"),
        repeated(list, "big.index(2)"),
        repeated(list, "loop.changed(big)"),
        repeated(text, "'a'.find(big)"),
        repeated(text, "big in 'a'"),
        repeated(text, "big|int"),
        repeated(text, "big|float"),
        repeated(text, "big.isalpha()"),
        repeated(text, "big in {}"),
        repeated("'é' * 500000", "big.isalnum()"),
        repeated("'é' * 500000", "big.isprintable()"),
        repeated("' ' * 1000000", "big|trim"),
        repeated("['a' * 1000000] * 100000", "big|sort"),
        repeated("['A' * 1000000] * 100000", "big|unique|list"),
        repeated("['A' * 1000000] * 100000", "big|map('trim')|list"),
        repeated("[' ' * 1000000] * 100000", "big|map('int')|list"),
        repeated("['A' * 1000000] * 100000", "big|select('upper')|list"),
        repeated("['A' * 1000000] * 100000", "big|max"),
        repeated("{} | string", "('a' * 1000000).strip('b' * 1000000 ~ 'a')"),
        "{% for i in [1] %}{% set l = loop %}{{ l.cycle() }}{% endfor %}".into(),
    ]
}

#[test]
fn templates_that_want_everything_get_little_and_end_with_one_line() {
    outcome("{{ messages }}").unwrap();
    peak();
    let before = peak();
    for source in [large(), growing(), nested(), long()].concat() {
        let shown: String = source.chars().take(300).collect();
        let rendered = outcome(&source);
        let took = peak().saturating_sub(before);
        assert!(took < ROOM, "{} MB for {shown}", took >> 20);
        if let Err(said) = rendered {
            assert!(said.len() < 1000 && !said.contains(char::is_control), "{shown}: {said:?}");
        }
    }
}
