#!/usr/bin/env python3
"""Records what jinja2, set up as in transformers, writes for templates: crates/data/tests/fixtures/jinja*.jsonl.

    pip install jinja2==3.1.6
    python ci/jinja_snippets.py                         # the snippets below and templates/*.jinja, to the fixtures
    python ci/jinja_snippets.py FOLDER > real.jsonl     # every *.jinja in FOLDER, with the conversations below

Each line is an object with `template`, `variables` and either `text` (with `generation`, ranges of characters, if the template
has generation blocks), or `error`, or `refused` where the crate does not render what jinja2 does.  The variables of most snippets are in VARIABLES and stand in the first line of the file.
"""

import json
import sys
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

FIXTURES = Path(__file__).parent.parent / "crates/data/tests/fixtures"


class AssistantTracker(jinja2.ext.Extension):
    """As in transformers' utils/chat_template_utils.py, but active from the first byte on."""

    tags = {"generation"}

    def __init__(self, environment):
        super().__init__(environment)
        environment.extend(activate_tracker=self.activate_tracker)
        self.blocks = None
        self.indices = None

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_generation_support"), [], [], body).set_lineno(lineno)

    @jinja2.pass_eval_context
    def _generation_support(self, context, caller):
        text = caller()
        if self.blocks is not None:
            start = len("".join(self.blocks))
            self.indices.append((start, start + len(text)))
        return text

    @contextmanager
    def activate_tracker(self, blocks, indices):
        self.blocks, self.indices = blocks, indices
        try:
            yield
        finally:
            self.blocks = self.indices = None


def compile_template(source):
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[AssistantTracker, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime(2024, 3, 5, 12, 34, 56).strftime(format)
    return environment.from_string(source)


def render(source, variables):
    try:
        template = compile_template(source)
        blocks, indices = [], []
        with template.environment.activate_tracker(blocks, indices):
            for block in template.generate(**variables):
                blocks.append(block)
        result = {"text": "".join(blocks)}
        if "generation" in source:
            result["generation"] = sorted(indices)
        return result
    except Exception as error:  # whatever jinja2 or Python raise is a refusal
        return {"error": f"{type(error).__name__}: {error}"}


VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ],
    "s": "Hello, World",
    "t": "  x y\t",
    "u": "naïve 日本 😀",
    "e": "",
    "i": 7,
    "z": 0,
    "f": 2.5,
    "n": None,
    "b": True,
    "l": [3, 1, 2],
    "w": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": 2},
    "deep": {"x": [{"y": None, "z": [True, 1.5, "it's"]}, {}], "e": []},
    "rows": [{"k": "x", "v": 1}, {"k": "y", "v": 2}, {"k": "X", "v": 3}, {"v": 4}],
    "empty": [],
}

SNIPPETS = r'''
{{ ['a', {'b': None}] }}
{{ {'b': 1, 'a': [true, false, none]} }}
{{ deep }}|{{ deep|string }}|{{ deep ~ '' }}
{{ [deep, 'x']|join(', ') }}
{{ n }}|{{ b }}|{{ f }}|{{ i }}|{{ undefined_name }}
{{ n ~ b ~ f ~ undefined_name ~ 1 }}
{{ [n, b, f]|join('-') }}
{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e22 }} {{ 1.0 }} {{ 100000000000000000000.0 }} {{ 1.5e300 }} {{ 0.1 + 0.2 }}
{{ (1, 2) }} {{ (1,) }} {{ () }} {{ 1, 2 }}
{{ ["it's", 'say "x"', "both ' and \"", 'tab\t', 'é', '日', '\u00ad', '\x7f', '\U0001F600', '\u200b'] }}
{{ 'a\nb\\c\'d\x41\u00e9\101' }}
{{ '\d' }}
{{ [n is iterable, undefined_name is iterable, s is iterable, l is iterable, d is iterable, i is iterable] }}
{{ [n is sequence, undefined_name is sequence, s is sequence, l is sequence, d is sequence, i is sequence, (1,) is sequence] }}
{{ [n is mapping, d is mapping, l is mapping, s is mapping, undefined_name is mapping] }}
{{ [n is string, s is string, undefined_name is string, i is string] }}
{{ [i is number, b is number, f is number, s is number, b is integer, i is integer, f is integer, f is float, i is float, b is boolean] }}
{{ [b is true, b is false, i is true, n is none, undefined_name is none, undefined_name is defined, n is defined, z is false] }}
{{ n|length }}
{{ i|length }}
{{ undefined_name|length }}|{{ s|length }}|{{ u|count }}|{{ d|length }}|{{ e|length }}
{{ d|tojson }}|{{ deep|tojson }}|{{ u|tojson }}|{{ n|tojson }}|{{ 1.0|tojson }}|{{ 1e16|tojson }}
{{ deep|tojson(indent=2) }}
{{ deep|tojson(indent=0) }}
{{ deep|tojson(indent='--') }}
{{ d|tojson(separators=(',', ':')) }}|{{ d|tojson(sort_keys=true) }}|{{ u|tojson(ensure_ascii=true) }}|{{ u|tojson(true) }}
{{ {'a': {'c': 1, 'b': 2}}|tojson(sort_keys=true, indent=1, separators=(';', '=')) }}
{{ '\x01\x1f\x7f"\\/\u2028'|tojson }}
{{ undefined_name|tojson }}
{{ (1, 2)|tojson }}|{{ []|tojson(indent=2) }}|{{ {}|tojson(indent=2) }}
{{ "%s" % i }} {{ "%d" % 2.7 }} {{ "%s-%s" % (i, s) }} {{ "%05d|%-5d|%+d|% d" % (42, 42, 42, 42) }} {{ "%x %X %o %#x" % (255, 255, 8, 255) }}
{{ "%.2f|%8.3f|%-8.1f|%e|%g|%G" % (3.14159, 2.5, 2.5, 12345.678, 0.00001234, 1e20) }}
{{ "%(a)s %(b)d" % {'a': 'x', 'b': 3} }} {{ "%%" % () }} {{ "%r" % s }} {{ "%s" % n }} {{ "%s" % [1] }} {{ "%c%c" % ('a', 66) }}
{{ "%5s|%-5s|%.2s" % ('ab', 'ab', 'abc') }} {{ "%*d" % (5, 42) }}
{{ "%s %s" % i }}
{{ "%s" % (1, 2) }}
{{ "%d" % 'x' }}
{{ "abc" % 1 }}
{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7 // 2 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 // 2 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ - i }} {{ +i }} {{ -i|abs }} {{ -1|abs }} {{ 10 - 2 - 3 }}
{{ 1 + 1.5 }} {{ 1 + true }} {{ 3 * 1.0 }} {{ 'ab' * 3 }} {{ 2 * 'ab' }} {{ [1] * 3 }} {{ [1] + [2, 3] }} {{ (1,) + (2,) }}
{{ 'a' + 1 }}
{{ 'a' + n }}
{{ 'a' + undefined_name }}
{{ undefined_name + 'a' }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ d + d }}
{{ 'a' ~ 1 + 2 ~ 'b' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 > 1 }} {{ 1 == 1 == 1 }} {{ 1 < i <= 7 }} {{ 1 < 2 in [2] }}
{{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' == 1 }} {{ n == false }} {{ n == undefined_name }} {{ undefined_name == undefined_name }} {{ [1] == (1,) }} {{ [1, 'a'] == [1.0, 'a'] }} {{ d == {'a': 2, 'b': 1} }}
{{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 2) < (2,) }} {{ 'Z' < 'a' }}
{{ 1 < 'a' }}
{{ n < 1 }}
{{ undefined_name < 1 }}
{{ undefined_name > 1 }}
{{ 1 in l }} {{ 9 in l }} {{ 9 not in l }} {{ 'ell' in s }} {{ 'b' in d }} {{ 'x' in undefined_name }} {{ not 1 in l }} {{ 'a' in ('a', 'b') }} {{ 1 in (1.0,) }}
{{ 1 in s }}
{{ 1 in n }}
{{ 1 in i }}
{{ 'x' if b }}|{{ 'x' if not b }}|{{ 'x' if z else 'y' }}|{{ 'a' if false else 'b' if false else 'c' }}
{{ (z and 1) }} {{ (e or 'default') }} {{ (b and 'x') }} {{ (n or []) }} {{ not e }} {{ not l }} {{ (0.0 or 'zero') }} {{ (undefined_name or 1) }} {{ ({} or 2) }}
{{ l[0] }} {{ l[-1] }} {{ l[10] }}|{{ l[true] }} {{ s[0] }} {{ s[-1] }} {{ u[6] }} {{ u[-1] }} {{ s[100] }}| {{ (1, 2)[-1] }} {{ l['x'] }}|{{ l[1.0] }}|{{ s['x'] }}
{{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[::2] }} {{ l[-2:] }} {{ l[5:] }} {{ l[2:0:-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ u[::-1] }} {{ u[1:7] }} {{ s[-5:] }} {{ s[::2] }} {{ (1, 2, 3)[1:] }} {{ s[10:2] }} {{ s[2:10:3] }}
{{ n[1:] }}
{{ undefined_name[1:] }}
{{ d[1:] }}
{{ l[::0] }}
{{ d.b }} {{ d['b'] }} {{ d.missing }}|{{ d['missing'] }}|{{ n.foo }}|{{ n['foo'] }}|{{ n[0] }}|{{ i.foo }}|{{ s.foo }}|{{ i[0] }}|{{ l.foo }}
{{ undefined_name.foo }}
{{ undefined_name['foo'] }}
{{ undefined_name[0] }}
{{ d.missing.more }}
{{ deep.x[0].z[2] }} {{ deep['x'][0]['z'][-1] }} {{ deep.x.0.z.1 }}
{{ {'items': 1}['items'] }} {{ {'a': 1}.items is defined }} {{ {'a': 1}['items'] is defined }} {{ {'a': 1}['itemz'] is defined }} {{ s.upper is defined }} {{ s.upperr is defined }}
{{ 'x' if d.items else 'y' }}
{{ {'format': 'date', 'title': 'T', 'index': 3, 'count': 4}.format }} {{ {'title': 'T'}.title }} {{ {'index': 3}.index }} {{ {'count': 4}.count }}
{{ ''.__class__.__mro__ }}
{{ d.keys() }} {{ d.values() }} {{ d.items() }}
{{ d.keys()|list }} {{ d.values()|list }} {{ d.items()|list }} {{ d|list }} {{ d|items|list }}
{{ d.get('a') }} {{ d.get('x') }} {{ d.get('x', 5) }} {{ d.get('a', 5) }} {{ d.copy() }}
{{ d.items()[0] }}|{{ d.keys()|first }}|{{ d.items()|length }}
{{ d.update({'c': 1}) }}
{{ d.pop('a') }}
{{ d.setdefault('x', 1) }}
{{ l.append(1) }}
{{ l.sort() }}
{{ l.index(2) }} {{ l.count(1) }} {{ l.copy() }} {{ (1, 2, 1).count(1) }} {{ (1, 2).index(2) }}
{{ l.index(9) }}
{{ '[' ~ t.strip() ~ ']' }}{{ '[' ~ t.lstrip() ~ ']' }}{{ '[' ~ t.rstrip() ~ ']' }} {{ 'xxaxx'.strip('x') }} {{ 'xyaxy'.lstrip('xy') }} {{ 'abc'.rstrip('c') }} {{ 'abc'.strip(none) }} {{ '\x1c a \x1f'.strip() }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c d'.split(' ', 1) }} {{ 'a b c d'.split(maxsplit=2) }} {{ 'a b c d'.rsplit(' ', 1) }} {{ 'a b c'.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a  b c '.split(none, 1) }}
{{ 'a</think>b</think>c'.split('</think>')[-1] }} {{ 'abc'.split('x') }} {{ '\x1ca\x1fb\u2003c'.split() }}
{{ 'abc'.split('') }}
{{ 'a\nb\r\nc\rd\x0be\u2028f\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'a\nb\n'.splitlines(keepends=true) }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'abc'.removeprefix('x') }} {{ 'abc'.removesuffix('') }}
{{ s.startswith('Hell') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('d') }} {{ s.endswith(('x', 'y')) }} {{ s.startswith('e', 1) }} {{ s.startswith('l', 2, 4) }} {{ 'abc'.endswith('b', 0, 2) }}
{{ s.startswith(['H']) }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('x') }} {{ s.index('W') }} {{ u.find('日') }} {{ u.rfind('😀') }} {{ s.find('o', 5) }} {{ s.find('o', -3) }} {{ s.count('l') }} {{ s.count('') }} {{ s.count('o', 5) }} {{ 'aaa'.count('aa') }} {{ 'abc'.find('', 10) }}
{{ s.index('x') }}
{{ 'aaa'.replace('a', 'b', 2) }} {{ 'aaa'.replace('a', 'b') }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ 'aaa'.replace('a', '', 0) }} {{ 'aaa'.replace('a', 'b', -1) }}
{{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ '+4'.zfill(4) }} {{ 'abc'.zfill(2) }} {{ 'ab'.center(5) }}| {{ 'ab'.center(6, '*') }} {{ 'abc'.center(6, '*') }} {{ 'ab'.ljust(4, '.') }} {{ 'ab'.rjust(4) }} {{ 'abc'.center(4, '-') }}
{{ 'hello world-foo'.title() }} {{ "it's o'neil 2nd".title() }} {{ 'hELLO'.capitalize() }} {{ 'ßx'.capitalize() }} {{ 'éa'.title() }} {{ s.upper() }} {{ s.lower() }} {{ s.swapcase() }} {{ 'ΑΣ'.lower() }} {{ 'ß'.upper() }}
{{ ','.join(['a', 'b']) }} {{ ''.join(w) }} {{ '-'.join('abc') }} {{ ', '.join(d) }} {{ ','.join(d.keys()) }}
{{ ','.join([1, 2]) }}
{{ '123'.isdigit() }} {{ '12a'.isdigit() }} {{ ''.isdigit() }} {{ 'abc'.isalpha() }} {{ 'aé日'.isalpha() }} {{ 'a1'.isalnum() }} {{ 'a b'.isalnum() }} {{ 'abc'.islower() }} {{ 'aBc'.islower() }} {{ 'ABC1'.isupper() }} {{ '1'.isupper() }} {{ ' \t'.isspace() }} {{ ''.isspace() }} {{ 'Hello World'.istitle() }} {{ 'abc'.isascii() }} {{ '٣'.isdigit() }} {{ '12'.isdecimal() }} {{ '12'.isnumeric() }} {{ 'a\n'.isprintable() }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a}-{b}'.format(a=1, b=n) }} {{ '{:5}|{:<5}|{:>5}|{:^5}'.format('a', 'b', 'c', 'd') }} {{ '{:05d} {:,} {:x} {:+d} {:>6}'.format(42, 1234567, 255, 3, 7) }} {{ '{:.2f} {:8.3f} {:%} {:.1%} {:e}'.format(3.14159, 2.5, 0.25, 0.256, 12345.6789) }} {{ '{{}}'.format() }} {{ '{!r} {!s}'.format('a', 1) }} {{ '{:*^9}'.format('mid') }} {{ '{0[a]} {1[0]}'.format(d, l) }} {{ '{:{}}|'.format('x', 4) }} {{ '{}'.format(2.0) }} {{ '{:6.1f}|{:<8}|'.format(2.25, 1.5) }}
{{ '{}'.format() }}
{{ '{'.format() }}
{{ 'a\tb'.expandtabs(4) }} {{ 'Ab'.casefold() }}
{{ s.foo() }}
{{ n.strip() }}
{{ undefined_name.strip() }}
{{ i.strip() }}
{{ 'a b c'|wordcount }} {{ "it's 2 words-x"|wordcount }} {{ u|wordcount }}
{{ 'a b/c?d=é'|urlencode }} {{ {'a b': 'c d', 'e': '/'}|urlencode }} {{ [('a', 1), ('b', '&')]|urlencode }} {{ 1|urlencode }}
{{ d|dictsort }} {{ d|dictsort(by='value') }} {{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ d|dictsort(reverse=true) }}
{{ rows|selectattr('k', 'defined')|list }} {{ rows|selectattr('v', 'gt', 2)|map(attribute='v')|list }} {{ rows|rejectattr('k', 'defined')|list }} {{ rows|selectattr('k')|map(attribute='k')|join(',') }} {{ rows|selectattr('k', 'equalto', 'x')|list|length }}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|first }} {{ messages|selectattr('role', '==', 'user')|list|length }} {{ messages|rejectattr('role', 'in', ['system'])|map(attribute='role')|list }}
{{ w|map('upper')|list }} {{ w|map('upper')|join }} {{ rows|map(attribute='k', default='-')|join(' ') }} {{ ['a ', ' b']|map('trim')|list }} {{ ['1', '2']|map('int')|sum }} {{ ['a', 'b']|map('replace', 'a', 'z')|list }} {{ [{'a': {'b': 1}}]|map(attribute='a.b')|list }}
{{ w|map('nofilter')|list }}
{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ l|select('gt', 1)|list }} {{ l|select('in', [1, 2])|list }} {{ l|select('divisibleby', 3)|list }} {{ ['a', 1, none]|select('string')|list }}
{{ rows|groupby('v')|map(attribute='grouper')|list }} {% for g in rows|rejectattr('k', 'undefined')|groupby('k') %}{{ g.grouper }}:{{ g.list|length }} {{ g[0] }};{% endfor %} {% for k, items in rows|groupby('k', default='?') %}{{ k }}={{ items|map(attribute='v')|list }} {% endfor %} {{ rows|rejectattr('k', 'undefined')|groupby('k', case_sensitive=true)|list }}
{{ ['a', 'A', 'b']|unique|list }} {{ ['a', 'A', 'b']|unique(true)|list }} {{ [1, 2, 1, 1.0]|unique|list }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 0)|list }} {{ [1, 2, 3, 4, 5]|slice(3)|list }} {{ [1, 2, 3, 4]|slice(3, 'x')|list }}
{{ '[' ~ '  a '|trim ~ ']' }} {{ 'xax'|trim('x') }} {{ 5|trim }} {{ n|trim }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ ''|indent }}|{{ 'a\n'|indent }}|{{ 'a\r\nb'|indent }}
{{ undefined_name|default('x') }} {{ n|default('x') }} {{ n|default('x', true) }} {{ e|default('x', boolean=true) }} {{ z|d(3) }} {{ undefined_name|default }}| {{ d.nope|default(l) }} {{ e|default('x') }}|
{{ l|first }} {{ l|last }} {{ []|first }}|{{ []|last }}|{{ s|first }} {{ s|last }} {{ d|first }} {{ d|last }} {{ undefined_name|first }}|{{ range(3)|last }}
{{ n|first }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ w|sort }} {{ w|sort(case_sensitive=true) }} {{ rows|sort(attribute='v', reverse=true)|map(attribute='v')|list }} {{ d|sort }} {{ 'hello'|sort|join }} {{ [(2, 'a'), (1, 'b')]|sort }} {{ messages|sort(attribute='role,content')|map(attribute='role')|list }}
{{ [1, 'a']|sort }}
{{ 'abc'|list }} {{ range(3)|list }} {{ (1, 2)|list }} {{ undefined_name|list }} {{ d.items()|list }}
{{ n|list }}
{{ l|reverse|list }} {{ 'abc'|reverse }} {{ d|reverse|list }} {{ range(3)|reverse|list }}
{{ n|reverse|list }}
{{ 'aXbX'|replace('X', '-') }} {{ 'aXbX'|replace('X', '-', 1) }} {{ 123|replace(2, 'x') }} {{ n|replace('N', 'n') }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 42|round }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 2.123|round(2, 'ceil') }} {{ 1234.5678|round(2) }} {{ 42.7|round|int }} {{ -0.5|round }}
{{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 4.9|int }} {{ -4.9|int }} {{ n|int }} {{ ' 42 '|int }} {{ '1_000'|int }} {{ true|int }} {{ []|int }}
{{ undefined_name|int }}
{{ '4.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ 'x'|float(1.5) }} {{ '1e3'|float }} {{ n|float }}
{{ -3|abs }} {{ -2.5|abs }} {{ l|sum }} {{ rows|sum(attribute='v') }} {{ l|sum(start=10) }} {{ [0.5, 1]|sum }} {{ []|sum }} {{ [[1], [2]]|sum(start=[]) }}
{{ l|min }} {{ l|max }} {{ w|min }} {{ w|max }} {{ []|min }}| {{ rows|max(attribute='v') }} {{ w|min(case_sensitive=true) }}
{{ d|attr('b') }}|{{ d|attr('items') is defined }}|{{ s|attr('nope') }}|{{ (s|attr('upper'))() }}
{{ '<a href="x">\'&'|escape }} {{ '<'|e }} {{ '<b>'|safe }} {{ ('<'|e) ~ '<' }} {{ 5|escape }} {{ '<'|e|e }}
{{ 'abc def'|title }} {{ 'foo-bar (baz) [qux] <x'|title }} {{ "it's"|title }} {{ 'hELLO wORLD'|capitalize }} {{ 5|upper }} {{ n|lower }} {{ b|string }}
{{ 'foo bar baz qux'|truncate(9) }} {{ 'foo bar baz qux'|truncate(9, true) }} {{ 'foo bar baz qux'|truncate(11) }} {{ 'foo bar'|truncate(9) }} {{ 'foo bar baz qux'|truncate(11, false, '...', 0) }}
{{ 'ab'|center(6) }}| {{ "%s is %d"|format('x', 3) }} {{ "%(a)s"|format(a=1) }} {{ l|join(attribute='x') }}|{{ rows|join(',', attribute='v') }} {{ 'abc'|join('-') }} {{ d|join }}
{{ 'abc'|nofilter }}
{{ 'x' if false else 'y' }}{% if false %}{{ 'abc'|nofilter }}{% endif %}
{{ 1 is notest }}
{{ 'upper' is filter }} {{ 'nofilter' is filter }} {{ 'defined' is test }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(4) }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 1 is eq 1 }} {{ 2 is gt 1 }} {{ 1 is in [1] }} {{ 'a' is in 'abc' }} {{ n is sameas none }} {{ b is sameas true }} {{ 1 is ne 2 }} {{ range is callable }} {{ s is callable }} {{ 3 is lt 4 }} {{ 3 is ge 3 }} {{ 'x'|e is escaped }} {{ -3 is odd }}
{{ not (1 is odd) }} {{ 1 is not odd }} {{ 1 is odd and 2 is even }} {{ s is string and s is not mapping }} {{ (1 is odd) is true }}
{{ range(5) }} {{ range(1, 10, 3)|list }} {{ range(5, 0, -2)|list }} {{ range(3)[-1] }} {{ range(0)|list }} {{ range(10)[2:8:2]|list }} {{ range(10)[2:4] }} {{ range(2, 7, 2) }} {{ 3 in range(5) }}
{{ range(100001)|length }}
{{ range(0, 5, 0) }}
{% set ns = namespace(a=1, b=[]) %}{% set ns.a = ns.a + 1 %}{% set ns.b = ns.b + [1] %}{{ ns.a }} {{ ns.b }} {{ ns.c }}|{{ ns['a'] }} {{ ns.c is defined }}
{% set ns = namespace({'x': 1}, y=2) %}{{ ns.x }}{{ ns.y }}
{% set d2 = {} %}{% set d2.x = 1 %}{{ d2 }}
{{ dict(a=1, b=2) }} {{ dict([('k', 'v')]) }} {{ dict([('k', 'v')], z=1) }} {{ dict({'a': 1}, b=2) }} {{ dict(d) }} {{ dict() }} {{ dict(d, **{'c': 3}) }}
{% set j = joiner('|') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}
{{ nofunction() }}
{{ raise_exception('roles must alternate') }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S') }} {{ strftime_now('%-d %B %y %A %a %j %p %I') }} {{ strftime_now('100%%') }}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}[{{ loop.previtem }},{{ loop.nextitem }}]{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }} {% endfor %}
{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}{% for x in [1] %}a{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}
{% for c in 'abc' %}{{ c }},{% endfor %}{% for c in u %}{{ loop.index }}{{ c }}{% endfor %}
{% for x in n %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in undefined_name %}a{% endfor %}ok
{% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {{ loop.length }} {{ loop.last }};{% else %}none{% endfor %}
{% for x in l if x > 100 %}{{ x }}{% else %}none{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for m in messages if m.role != 'system' %}{{ m.role }}{% if not loop.last %},{% endif %}{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [1, 2] %}{{ a }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% set ns = namespace(done=false) %}{% for x in l if not ns.done %}{% set ns.done = true %}{{ x }}{% endfor %}
{% for item in [{'n': 1, 'c': [{'n': 2, 'c': []}, {'n': 3}]}] recursive %}{{ item.n }}{% if item.c %}({{ loop(item.c) }}){% endif %}{{ loop.depth }}{% endfor %}
{% set x = 1 %}{% for y in l %}{{ x }}{% set x = y %}{{ x }}{% endfor %}{{ x }}
{% for y in l %}{% set v = y %}{% endfor %}{{ v }}|{% if true %}{% set v2 = 3 %}{% endif %}{{ v2 }}
{% for y in [1, 2] %}{{ q }}{% set q = y %}{% endfor %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d3) = [3, 4] %}{{ c }}{{ d3 }}{% set t2 = 1, 2 %}{{ t2 }}
{% set x %}a {{ i }} b{% endset %}[{{ x }}]{{ x is string }}{% set x | upper | trim %} abc {% endset %}[{{ x }}]
{% set x %}{% for y in l %}{{ y }}{% endfor %}{% endset %}{{ x|length }}
{% with %}{% set w2 = 1 %}{{ w2 }}{% endwith %}{{ w2 }}|{% with a=1, b=2 %}{{ a + b }}{% endwith %}|{% set a = 5 %}{% with a=1, b=a %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b')|title %}aaa x{% endfilter %}
{% macro m(a, b='x', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(c=3, a=4) }}{{ m(1, undefined_name) }}{{ m(undefined_name) }}{{ m(1, b=undefined_name) }}{{ m(*[1, 2]) }}{{ m(**{'a': 1, 'b': 5}) }}{{ m() }}
{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m('x', 'y') }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x=2) }}
{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}
{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 5 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n }}*{{ fact(n - 1) }}{% endif %}{% endmacro %}{{ fact(5) }}
{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{% macro outer() %}<{{ caller() }}>{% endmacro %}{% call outer() %}inside {{ i }}{% endcall %}
{% macro list_of(items) %}{% for x in items %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) list_of(l) %}[{{ x }}]{% endcall %}
{% for m in messages %}{% macro f() %}{{ m.role }}{% endmacro %}{{ f() }}{% endfor %}
{% set ns = namespace(f=none) %}{% macro g(x) %}<{{ x }}>{% endmacro %}{% set ns.f = g %}{{ ns.f(1) }}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }}
{% set g = l|select('odd') %}{{ g|first }}{{ g|list }}{{ 'true' if g else 'false' }}
{{ l|map('string')|length }}
{% if l|select('gt', 100) %}generator is true{% endif %}
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{% do l.append(1) %}
{% unknown %}
{% for %}
{% if %}x{% endif %}
{% if true %}
{% endif %}
{{ 1 + }}
{{ (1 }}
{{ 'a }}
{{ a b }}
{% break %}
{% raw %}{{ not }} {% if %}{% endraw %} x {%- raw -%}  {{ y }}  {%- endraw -%}  z
a {%- if true -%} b {%- endif -%} c
{{ '{{' }}{{ '{%' }} { {{ '}}' }} {{ "{#" }}{ # %} }} #}
a{{ '{' }}{{ '{' }}b
{{ {'a': {'b': {}}}}}
{{ "a" "b" 'c' }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1_000 }} {{ 1.5e3 }} {{ 1E-7 }}
{{ {'a': 1, 'a': 2} }} {{ {i: 'x', s: 'y'} }} {{ {(1, 2): 3} }}
{{ {[1]: 2} }}
{{ true }} {{ True }} {{ false }} {{ None }} {{ none }}
{{ 12345678901234567890 }} {{ 2 ** 63 }} {{ -9223372036854775808 }} {{ 9223372036854775807 + 1 }}
{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '\n' }}{% endfor %}
{{ messages[0]['content'] if messages[0]['role'] == 'system' else '' }}{{ messages[1:]|length }}{{ (messages|last).content }}
{% if messages and messages[0].role == 'system' %}{% set rest = messages[1:] %}{% endif %}{% for m in rest %}{{ loop.index0 }}{{ (m.role == 'user') != (loop.index0 % 2 == 0) }}{% endfor %}
{% if tools is defined and tools is not none and tools|length > 0 %}tools{% else %}no tools{% endif %}
{% if tools is iterable and tools|length > 0 %}t{% endif %}ok
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}|{% endif %}{% endfor %}
a {% generation %} b {% endgeneration %} é {% generation %}日{% endgeneration %}
{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}
{% set x = 0 %}{% generation %}{% set x = x + 1 %}{{ x }}{% endgeneration %}{{ x }}
{% for m in messages %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}
{% for m in messages %}{% generation %}{% continue %}{% endgeneration %}{% endfor %}
{% generation %}x
a{%+ generation +%} b {%+ endgeneration +%} c
{% print i %}{% print s, i %}
{%- set x = 'a' -%} {{ x }} {%- set y = 'b' %} {{ y }}
{{ s|upper|lower|title }} {{ (s|upper).lower() }} {{ s.upper()|length }} {{ s|length + 1 }} {{ 'a' in s|lower }} {{ not s|length }}
{{ 1 if true else 2 + 3 }} {{ (1 if false else 2) + 3 }} {{ 1 + 2 ~ 3 }} {{ 2 * 3 ~ 'x' }} {{ 1 ~ 2 * 3 }} {{ 'a' ~ 'b' == 'ab' }} {{ 1 + 1 == 2 and 3 > 2 }} {{ not 1 == 2 }} {{ not true or true }}
{{ l[0] + l[1] * l[2] }} {{ l|length > 2 }} {{ l|length == 3 and 'yes' or 'no' }} {{ -l[0] }} {{ l[-l|length] }} {{ l[i - 7] }}
{{ [x for x in l] }}
{{ lambda: 1 }}
{{ messages }}
{{ messages|tojson(indent=4) }}
{{ loop }}
{{ 'a' is string is string }}
{{ s.replace('l', 'L').split(', ')[1][0:2]|lower }}
{{ [1, 2, 3].pop() }}
{{ [[1, 2], [3]]|sum(start=[]) }} {{ [1, [2, (3, {'a': ()})]] }}
{{ 3.0 }} {{ 3.0|int }} {{ 3.7 // 1 }} {{ 5 // 2.0 }} {{ 1e3 }} {{ 0.5 }} {{ .5 }}
{% for c in u %}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}{% for k in d %}{{ loop.last }}{% endfor %}{% for k in d.items() %}{{ loop.last }}{% endfor %}{% for k in d|items %}{{ loop.last }}{% endfor %}{% for k in range(2) %}{{ loop.last }}{% endfor %}
{{ ['<'|e, '<b>'|safe] }} {{ 'abc' % undefined_name }} {{ [n, n]|sort }} {{ l|sort(attribute='x') }}
{{ n is none(1) }}
{{ s is defined 1 }}
{% for x in l %}{{ s }}{% endfor %}{% set s = 'set' %}{{ s }}
{% macro m() %}{{ s }}{% endmacro %}{{ m() }}{% set s = 'set' %}{{ m() }}
{{ s }}{% for x in l %}{{ s }}{% endfor %}{% set s = 'set' %}{{ s }}
{% for x in l %}{{ s }}{% endfor %}{% if b %}{% set s = 'set' %}{% endif %}{{ s }}
{% for x in l %}{{ s }}{% endfor %}{% if z %}{% set s = 'set' %}{% endif %}{{ s }}
{% for x in l %}{{ s }}{% endfor %}{% if z %}{% set s = 1 %}{% elif n %}{% set s = 2 %}{% else %}{% set s = 3 %}{% endif %}{{ s }}
{% for x in l %}{{ s }}{% endfor %}{% if z %}{% set s = 1 %}{% else %}{% set s = 3 %}{% endif %}{{ s }}
{% for x in l %}{% for y in l %}{{ s }}{% endfor %}{% set s = x %}{{ s }}{% endfor %}{{ s }}
{% for x in l %}{% for y in l %}{{ i }}{% endfor %}{% set i = i + x %}{{ i }}{% endfor %}{{ i }}
{% for x in l %}{{ i }}{% endfor %}{% set i = i + 1 %}{{ i }}
{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}|{% filter upper %}{% set y = 'a' %}{{ y }}{% endfilter %}{{ y }}|{% for q in [] %}{% else %}{% set y = 2 %}{{ y }}{% endfor %}{{ y }}
{% generation %}{{ s }}{% endgeneration %}{% set s = 1 %}{{ s }}
{% with %}{{ s }}{% endwith %}{% set s = 1 %}{{ s }}
{% macro m(s) %}{{ s }}{% for x in l %}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}{% endmacro %}{{ m(5) }}{% set s = 2 %}{{ m(s) }}
{{ ((d) in {}) }}
{{ {}.get([]) }}
{{ 1 == 1 and 2 == 2 }} {{ 'a' != 'b' }} {{ n != none }} {{ n is not none }} {{ [] == [] }} {{ {} == {} }} {{ () == [] }}
'''


# What jinja2 renders, and the crate refuses by name: most print an address, or what is no text of the template's.
REFUSED = r'''
{{ [i|escape|center(9)] }}
{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ {'items': 1}.items }}
{{ s.__class__ }}
{{ s.encode('utf-8') }}
{{ ('<'|safe) + '<' }}
{{ lipsum(n=1) }}
{% set ns = namespace(n=0) %}{% for x in l if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ loop.index }}{{ x }}{% endfor %}
{% macro v() %}{{ varargs }}{% endmacro %}{{ v(1, 2) }}
{{ l|map('string') }}
{% block x %}a{% endblock %}
a{% generation %}b{% generation %}c{% endgeneration %}d{% endgeneration %}
{% macro f() %}{% generation %}x{% endgeneration %}{% endmacro %}a{{ f() }}
{{ s.upper }}
{{ s|attr('upper') }}
{{ namespace(a=1) }}
{{ range }}
{{ d.get }}
'''

# Snippets of several lines, parted by lines of dashes.
MULTILINE = r'''
{{ "a\
b" }}
-----
{% macro f(m) %}  {{ m.content | trim }}
  {% endmacro %}{{ f(messages[0]) }}|{{ f(messages[1])|trim }}
-----
{# comment #}a{#- strip -#} b {# multi
line #}
c
  {% if true %}
x
  {% endif %}
y
-----
a  {%+ if true %} b
  {%+ endif %} c
-----
{% if true +%}
x{% endif %}
-----
  {{- s -}}  x  {{ s }}
y
-----
{%- for m in messages %}
    {%- if loop.first %}{% continue %}{% endif %}
{{ m.role }}: {{ m.content }}
{%- endfor %}
-----
{% for m in messages %}
    {%- if m.role == 'assistant' -%}
    {%- generation -%}
    {{ m.content + '<end>' }}
    {%- endgeneration -%}
    {%- endif -%}
{%- endfor %}
-----
a
  {% generation %}
b
  {% endgeneration %}
c
'''


def conversations():
    """Conversations for real templates: variables of apply_chat_template."""
    system = {"role": "system", "content": "You are helpful.\nBe brief."}
    user = {"role": "user", "content": "What is 2+2? <b>é 日本 😀</b>"}
    answer = {"role": "assistant", "content": "It is **4**.\n\n```python\nprint({'a': 2 + 2})\n```"}
    more = {"role": "user", "content": "  And 3+3?  "}
    thought = {"role": "assistant", "content": "6", "reasoning_content": "3+3 is 6.\n"}
    inline = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n6"}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "id": "abcdefghi",
                "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3, "f": 1.5, "n": None, "b": True, "l": ["a", 1]}},
            }
        ],
    }
    plain_call = {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}, {"function": {"name": "add", "arguments": {"a": 1}}}],
    }
    result = {"role": "tool", "content": '{"t": 21.5}', "name": "weather", "tool_call_id": "abcdefghi"}
    tools = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string", "description": "Which city", "enum": ["Zürich", "Bern"]},
                        "days": {"type": "integer", "default": 1},
                        "opts": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}}},
                    },
                    "required": ["city"],
                },
                "return": {"type": "string", "description": "Words"},
            },
        },
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}},
    ]
    base = [
        [user],
        [user, answer],
        [system, user, answer, more, thought],
        [system, user, inline, more, answer],
        [user, {"role": "assistant", "content": ""}, more],
        [user, answer, more, answer, user],
        [system, user],
    ]
    with_tools = [
        [user, call, result],
        [system, user, call, result, answer, more],
        [user, plain_call, result, {**result, "name": "add", "content": "7"}, answer],
        [user],
    ]
    listed = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "é"}]}
    cases = []
    for messages in base + [[listed, {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]]:
        for prompt in (False, True):
            cases.append({"messages": messages, "add_generation_prompt": prompt, "tools": None, "documents": None})
    for messages in with_tools:
        cases.append({"messages": messages, "add_generation_prompt": True, "tools": tools, "documents": None})
    cases.append({"messages": base[2], "add_generation_prompt": True, "tools": None, "documents": None, "enable_thinking": False})
    cases.append({"messages": base[3], "add_generation_prompt": True, "tools": tools, "documents": None, "enable_thinking": True})
    cases.append({"messages": base[2], "add_generation_prompt": True, "tools": None, "documents": None, "reasoning_effort": "high"})
    cases.append({"messages": [answer, user], "add_generation_prompt": False, "tools": None, "documents": None})
    cases.append({"messages": [user, user], "add_generation_prompt": False, "tools": [], "documents": None})
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return [case | special for case in cases]


def snippets():
    carriage_returns = ["a\r\n{{ i }}\r\nb\rc\r\n", "{% if true %}\r\na\r\n{% endif %}\r\nb", "{{ 'a\r\nb'|length }}"]
    at_the_end = ["x\n\n", "x\n", "{{ s }}\n", ""]
    return SNIPPETS.strip("\n").split("\n") + MULTILINE.strip("\n").split("\n-----\n") + carriage_returns + at_the_end


def main():
    if len(sys.argv) > 1:
        for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
            source = path.read_text()
            for variables in conversations():
                print(json.dumps({"name": path.name, "template": source, "variables": variables} | render(source, variables)))
        return
    with (FIXTURES / "jinja_conversations.jsonl").open("w") as file:
        print(json.dumps({"conversations": conversations()}, ensure_ascii=False), file=file)
        for path in sorted(FIXTURES.glob("templates/*.jinja")):
            for index, variables in enumerate(conversations()):
                line = {"name": path.name, "conversation": index} | render(path.read_text(), variables)
                print(json.dumps(line, ensure_ascii=False), file=file)
    with (FIXTURES / "jinja.jsonl").open("w") as file:
        print(json.dumps({"variables": VARIABLES}, ensure_ascii=False), file=file)
        for source in snippets():
            print(json.dumps({"template": source} | render(source, VARIABLES), ensure_ascii=False), file=file)
        for source in REFUSED.strip("\n").split("\n"):
            print(json.dumps({"template": source, "refused": True}, ensure_ascii=False), file=file)


if __name__ == "__main__":
    main()
