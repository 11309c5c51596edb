"""The sandbox of strangers' chat templates: no way out, and an end to everything."""

import resource
import time

import pytest

from athanor.base.errors import AthanorError
from athanor.tokens.sandbox import SandboxedTemplate
from athanor.tokens.template import jinja_source
from tests.tokens.adversarial import conversations


def test_our_own_template_runs_in_the_sandbox() -> None:
    sandboxed = SandboxedTemplate(jinja_source())
    for chat in conversations(100):
        text = sandboxed.render({"messages": chat.messages(), "tools": list(chat.tools), "add_generation_prompt": True})
        assert text.text.startswith("<|") and text.text.endswith("<|assistant|>")


SNIPPETS = [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "{%- if true -%}  x  {%- endif %}\n\n y",
    "{# note #}\nx{{- ' y ' -}} z",
    "{{ messages[0].role }}{{ messages[0]['role'] }}{{ messages[-1].content }}{{ messages[9] is defined }}",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for m in messages %}{{ loop.revindex }}"
    "{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in [] %}{% else %}none{% endfor %}{% for m in missing %}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}"
    "{{ messages[1:] | length }}{{ messages[:1] }}{{ 'abc'[::-1] }}",
    "{% for k, v in {'a': 1, 'b': none}.items() %}"
    "{{ k }}={{ v }};{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}",
    "{% for c in 'héé' %}{{ c }}.{% endfor %}{% for i in range(2, 9, 3) %}{{ i }}{% endfor %}",
    "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role %}"
    "{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.missing }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]{% set y | upper %}abc{% endset %}{{ y }}{% set a, b = 1, 2 %}{{ b }}",
    "{% macro f(a, b='d') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, k=4) }}",
    "{% macro g() %}<{{ caller(1) }}>{% endmacro %}{% call(x) g() %}in {{ x }}{% endcall %}",
    "{% macro h(n) %}{% if n %}{{ n }}{{ h(n - 1) }}{% endif %}{% endmacro %}{{ h(5) }}",
    "{% filter upper %}abc{{ messages[0].role }}{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}{{ a is defined }}",
    "{% raw %}{{ x }}{% endraw %}",
    "x{% generation %} y {% endgeneration %}\nz",
    "{{ none }}{{ true }}{{ 1.0 }}{{ -3 }}",
    "{{ 'a' ~ 1 ~ none ~ ['b'] }}{{ 'a' + 'b' }}{{ 'ab' * 2 }}"
    "{{ [1] + [2] }}{{ (1, 2) }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 7 / 2 }}",
    "{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 1.5 * 2 }}{{ '%s-%d' % ('a', 3) }}{{ '%(k)s' % {'k': 'v'} }}{{ '%5.1f|' % 2.25 }}",
    "{{ 'a' in 'abc' }}{{ 'x' not in ['x'] }}{{ 1 < 2 < 3 }}{{ 'role' in messages[0] }}{{ 1 == 1.0 }}{{ not 1 }}",
    "{{ 'x' if missing else 'y' }}{{ 'x' if false }}{{ missing or 'default' }}{{ missing and 1 }}",
    "{{ missing is defined }}{{ none is none }}{{ 'a' is string }}"
    "{{ {} is mapping }}{{ [] is iterable }}{{ [] is sequence }}",
    "{{ 1 is number }}{{ 1 is integer }}{{ true is boolean }}"
    "{{ 'a' is eq('a') }}{{ 3 is odd }}{{ 3 is divisibleby(3) }}",
    "{{ messages | tojson }}{{ {'é': '<&\\'\">'} | tojson }}"
    "{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}",
    "{{ 'é' | tojson(ensure_ascii=true) }}"
    "{{ [1, 2] | tojson(separators=(',', ':')) }}{{ 1.5 | tojson }}{{ none | tojson }}",
    "{{ '<' | e }}{{ '<' | safe }}{{ ('<' | safe) ~ '<' }}{{ ('<' | safe) + '<' }}{{ '<' + ('<' | safe) }}",
    "{{ ('<x>' | tojson | safe) + '&' }}{{ ('a<' | e | upper) }}"
    "{{ ('<' | safe).replace('<', '>') }}{{ ('<' | safe) | replace('<', '&') }}",
    "{{ ' a ' | trim }}|{{ 'xay' | trim('x') }}{{ 'aBc' | upper }}"
    "{{ 'aBc' | lower }}{{ 'a b' | title }}{{ 'aB' | capitalize }}",
    "{{ ' a '.strip() }}{{ 'xa'.lstrip('x') }}{{ 'a\n'.rstrip('\n') }}"
    "{{ 'a,b,c'.split(',', 1) }}{{ 'a b'.split() }}{{ 'a\nb'.splitlines() }}",
    "{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('b', 'c')) }}"
    "{{ 'abc'.find('z') }}{{ 'abab'.replace('a', 'x', 1) }}{{ 'aa'.count('a') }}",
    "{{ ','.join(['a', 'b']) }}{{ ''.join('abc') }}{{ 'a-b'.partition('-') }}"
    "{{ 'AbC'.swapcase() }}{{ 'abc'.removeprefix('a') }}",
    "{{ [1, 2] | join(', ') }}{{ messages | join('|', attribute='role') }}"
    "{{ ['a', 'b'] | join }}{{ [[1], 'x'] | join('-') }}",
    "{{ [3, 1, 2] | sort }}{{ messages | sort(attribute='role') }}"
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 2] | reverse | list }}",
    "{{ [1, 2] | first }}{{ [1, 2] | last }}{{ [1, 2] | length }}"
    "{{ 'ab' | count }}{{ [2, 1] | min }}{{ [2, 1] | max }}{{ [] | first }}",
    "{{ messages | map(attribute='role') | list }}{{ ['a'] | map('upper') | join }}"
    "{{ messages | map(attribute='z', default='-') | list }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list }}"
    "{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }}",
    "{{ [0, 1] | select | list }}{{ [1, 2] | reject('odd') | list }}"
    "{{ messages | selectattr('tool_calls') | list | length }}",
    "{{ 'y' if messages | selectattr('role', 'eq', 'nobody') else 'n' }}"
    "{{ '3' | int }}{{ 'x' | int(7) }}{{ '1.5' | float }}{{ 3 | string }}",
    "{{ missing | default('d') }}{{ '' | default('d', true) }}"
    "{{ none | d('x') }}{{ 'a' | default('d') }}{{ 'ab' | list }}{{ -1 | abs }}",
    "{{ 'a\nb' | indent(2) }}{{ 'a\n\nb' | indent(2, true, true) }}"
    "{{ 'aab' | replace('a', 'x', 1) }}{{ {'a': 1} | items | list }}",
    "{{ 'a long text of words' | truncate(9) }}{{ '%s' | format('a') }}"
    "{{ dict(a=1) }}{{ dict({'b': 2}, a=1) }}{{ range(3) | list }}",
    "{{ messages[0].get('role') }}{{ messages[0].get('z', 'no') }}"
    "{{ messages[0].keys() | list }}{{ messages[0].values() | list }}",
    "{{ [1, 2].index(2) }}{{ (1, 1).count(1) }}{{ {'items': 5}['items'] }}"
    "{{ {'a': {'b': 2}}.a.b }}{{ [[1, 2]][0][1] }}",
]


@pytest.mark.parametrize("source", SNIPPETS)
def test_it_writes_what_transformers_writes(source: str) -> None:
    """Every construct that is allowed, against Jinja as `transformers` sets it up."""
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    messages = [
        {"role": "user", "content": "é <&> '\"\n"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]},
    ]
    expected = render(conversations=[messages], chat_template=source)[0][0]
    variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
    assert SandboxedTemplate(source).render(variables).text == expected


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cla' + 'ss__'] }}",
    "{{ () | attr('__class__') }}",
    "{{ '' | attr('__class__') | attr('__mro__') }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ messages | sum(attribute='__class__') }}",
    "{{ [''] | selectattr('__class__') | list }}",
    "{{ [''] | sort(attribute='__class__.x') }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ ('%s' % namespace) }}",
    "{{ '%s' | format(range) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ cycler('a').next() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ joiner(',')() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ lipsum(5) }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self }}",
    "{{ range.__self__ }}",
    "{{ dict([[1, 2]]) }}",
    "{{ dict.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{{ raise_exception }}",
    "{{ namespace }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func }}",
    "{% macro m() %}{% endmacro %}{{ m }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}",
    "{% for x in [1] %}{{ loop([1]) }}{% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% set ns = namespace(a=1) %}{{ ns }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{% set ns = namespace() %}{{ ns._Namespace__attrs }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import path %}",
    "{% extends 'a' %}",
    "{% block a %}{% endblock %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% if false %}{% include 'a' %}{% endif %}",
    "{{ messages.append(1) }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages[0].__setitem__('a', 1) }}",
    "{{ messages.sort() }}",
    "{{ ''.encode() }}",
    "{{ (1).to_bytes(9, 'big') }}",
    "{{ ('a' | upper).__class__ }}",
    "{{ ('a' | e).unescape() }}",
    "{{ ('a' | safe).__html__() }}",
    "{{ x.__class__ }}",
    "{{ messages | pprint }}",
    "{{ messages | random }}",
    "{{ {} | xmlattr }}",
    "{{ messages[0].items }}",
    "{{ (messages | map('upper')) ~ '' }}",
    "{{ [messages | map('upper')] }}",
    "{{ namespace | tojson }}",
    "{{ strftime_now('%Y') }}",
    "{% generation %}{{ ''.__class__ }}{% endgeneration %}",
    "{% filter attr('__class__') %}a{% endfilter %}",
    "{% set x = ''.__class__ %}",
    "{% call raise_exception.__call__('a') %}{% endcall %}",
]


HARMLESS = {
    "{{ messages | map(attribute='pop') | list }}": "[Undefined]", "{{ dict.fromkeys }}": "", "{{ ''.encode }}": "",
    "{{ 1 is callable() and 2 }}": "False", "{{ ('9' * 9999) | int }}": "0", "{{ {'_a': 1}._a }}": "1",
    "{{ missing }}": "",
}  # fmt: skip


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_not_there_is_undefined(source: str) -> None:
    assert SandboxedTemplate(source).render({"messages": [{"role": "user"}]}).text == HARMLESS[source]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source: str) -> None:
    """Every one is refused; none writes anything of Python's."""
    with pytest.raises(AthanorError, match="chat template"):
        text = SandboxedTemplate(source).render({"messages": [{"role": "user", "content": "a"}]})
        raise AssertionError(text)


def grow(body: str, after: str = "", times: int = 99) -> str:
    """A template that makes something from itself, again and again."""
    begin = "{% set ns = namespace(a='0123456789', l=(1,), n=2) %}{% for i in range(" + str(times) + ") %}"
    return begin + body + "{% endfor %}" + after


def often(body: str) -> str:
    """A loop that does a little, or much, a hundred thousand times."""
    return "{% for i in range(99999) %}" + body + "{% endfor %}"


TWICE = "{% set ns.l = (ns.l, ns.l) %}"


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ 'a' * 10**20 }}",
    "{{ 10**10**8 }}",
    "{{ (2**100)**100 }}",
    "{{ -(2**127) * 2**127 }}",
    "{{ 9" + "9" * 60 + " }}",
    "{{ ('9' * 60) | int }}",
    "{% for x in range(10**9) %}{% endfor %}",
    "{{ range(10**9) | list }}",
    "{{ range(10**30) | list }}",
    "{{ range(10**8) | join }}",
    "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) if a > 99998 %}"
    + "{{ a }}" * 999
    + "{% endfor %}{% for a in range(99999) %}"
    + "{% set x = a %}" * 999
    + "{% endfor %}",
    grow("{% set ns.a = ns.a ~ ns.a %}"),
    grow("{% set ns.a = ns.a + ns.a %}"),
    grow("{% set ns.a = ns.a * 2 %}"),
    grow("{% set ns.a = ns.a.replace('0', ns.a) %}"),
    grow("{% set ns.a = ns.a | replace('0', ns.a) %}"),
    grow("{% set ns.a = ns.a.join([ns.a, ns.a]) %}"),
    grow("{% set ns.a = [ns.a, ns.a] | join(ns.a) %}"),
    grow("{% set ns.a = ns.a.join(ns.a) %}"),
    grow("{% set ns.a = [ns.a, ns.a] | string %}"),
    grow("{% set ns.a %}{{ ns.a }}{{ ns.a }}{% endset %}"),
    grow("{% set ns.a = '%s%s' % (ns.a, ns.a) %}"),
    grow("{% set ns.a = '%s%s' | format(ns.a, ns.a) %}"),
    grow("{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l }}"),
    *(
        grow(TWICE, after, times)
        for times in (50,)
        for after in (
            "{{ ns.l }}",
            "{{ ns.l ~ '' }}",
            "{{ ns.l == ns.l }}",
            "{{ ns.l in [ns.l] }}",
            "{% set x = {ns.l: 1} %}",
            "{{ {}[ns.l] }}",
            "{{ messages[0].get(ns.l) }}",
            "{{ raise_exception(ns.l) }}",
            "{{ ns.l is eq(ns.l) }}",
            "{{ ns.l | tojson }}",
            "{{ '%s' % ns.l }}",
            "{{ ns.l | string }}",
            "{{ ns.l | join }}",
            "{{ [ns.l, ns.l] | sort }}",
            "{{ ''.join(ns.l) }}",
            "{{ [ns.l] | map('string') | list }}",
            "{% for x in [1] %}{{ loop.changed(ns.l) }}{% endfor %}",
            "{{ 'a' | default(ns.l) in {} or ns.l | e }}",
        )
    ),
    grow("{% set ns.l = {'a': ns.l, 'b': ns.l} %}", "{{ ns.l }}"),
    grow("{% set ns.l = ns.l + ns.l %}"),
    grow("{% set ns.l = dict(a=ns.l, b=ns.l) %}"),
    grow("{% set ns.n = ns.n * ns.n %}"),
    grow("{% set ns.n = ns.n ** ns.n %}"),
    grow("{% set ns.a = (ns.a ~ ns.a) | e | e %}"),
    grow("{% set ns.a = ns.a ~ (ns.a | tojson) %}"),
    grow("{% set ns.a = (ns.a ~ '\n' ~ ns.a) | indent(16) %}"),
    grow("{% set ns.a = '%s' ~ ns.a ~ ns.a %}"),
    grow("{% set ns.a = (ns.a ~ ns.a) | upper | title | trim %}"),
    grow("{% set ns.a = (ns.a | list + ns.a | list) | join %}"),
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(38) }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 15
    + "x"
    + "{% endcall %}" * 15
    + "{% for i in range(10**6) %}{{ m() }}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '%.999999999f' % 1.0 }}",
    "{{ '%0999999999d' | format(1) }}",
    "{{ 'a' | indent(10**9) }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ 'a'.expandtabs(10**9) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ [1] | batch(10**9, 0) | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ 1.5 | round(10**9) }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ lipsum(10**9) }}",
    "{{ 'a' | wordwrap(1, wrapstring='b' * 10**9) }}",
    "{% for i in range(99999) %}" + "a" * 50_000 + "{% endfor %}",
    often("{{ big }}"),
    often("{% if big == big ~ '' %}{% endif %}"),
    often("{% if 'zz' in big %}{% endif %}"),
    often("{% set x = big[1:] %}"),
    often("{% set x = big | length %}"),
    often("{% set x = big.upper() %}"),
    often("{% set x = big.split('a') %}"),
    often("{% set x = big is eq(big) %}"),
    "{% set l = range(9999) | list %}{% for i in range(9999) %}{% set x = l | sort %}{% endfor %}",
    "{% set l = range(9999) | list %}{% for i in range(9999) %}{% set x = [l | map('string') | list] %}{% endfor %}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "{{ 1" + " + 1" * 20_000 + " }}",
    "{% if a %}" * 500 + "{% endif %}" * 500,
    "{% for a in b %}" * 60 + "{% endfor %}" * 60,
    "{{ not " * 1 + "not " * 20_000 + "1 }}",
    "{% macro big_one() %}" + "{% set x = i %}" * 500 + "{% endmacro %}" + often("{{ big_one() }}"),
    "{% set l = range(99999) | list %}" + often("{% set x = l[1:] %}"),
    often("{% set x = [" + "1, " * 9999 + "] %}"),
    "{{ m.keys() - m.keys() }}",
    "{{ m.items() - m }}",
    "{% macro m() %}{% endmacro %}{% set l = range(99999) | list %}{% for i in l %}{{ m(*l) }}{% endfor %}",
    "a" * 100_001,
    "{{ a" + ".a" * 30_000 + " }}",
    "{{ -" + "-" * 20_000 + "1 }}",
    "{{ 'a'" + " ~ 'a'" * 2 + " | upper" * 15_000 + " }}",
]


@pytest.mark.parametrize("place", range(len(BOMBS)))
def test_everything_ends(place: int) -> None:
    """In bounded time and memory, with a refusal that says why."""
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(AthanorError, match="chat template"):
        SandboxedTemplate(BOMBS[place]).render({"messages": [{"role": "user"}], "big": "a" * 100_000, "m": {"a": "b"}})
    assert time.process_time() - clock < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_limits_are_the_same_every_time() -> None:
    """The budget counts: what is refused once is always refused, with the same words."""
    words = set()
    for _ in range(3):
        with pytest.raises(AthanorError) as problem:
            SandboxedTemplate(grow("{% set ns.a = ns.a ~ ns.a %}")).render({"messages": []})
        words.add(str(problem.value))
    assert len(words) == 1
