"""Runs chat templates of strangers: Jinja as `transformers` runs it, without a way out and with an end.

Jinja's immutable sandbox, narrowed: values are plain data, the attributes, functions, filters and tests that a template
may use are listed, and the tree of the template is rewritten so that every loop, macro, comparison, text and list pays
from a budget before or while it is made. The budget counts, no clock runs: the same template and conversation always
give the same text or the same refusal.

Not bounded: what Python itself spends on one permitted operation (a budget of 20 million characters is spent in about
a second), and the sum over many renderings.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from athanor.base.errors import AthanorError
from athanor.tokens.budget import BOXES, ITEM, METER, Limits, Meter, refuse
from athanor.tokens.sandbox_filters import allowed_filters, allowed_tests, pay_for_percent

EMIT, WEIGH, COUNT, LOOP, ENTER, MARK = (f"athanor {name}" for name in "emit weigh count loop enter mark".split())
TEXT_METHODS = frozenset((
    "strip lstrip rstrip removeprefix removesuffix split rsplit splitlines partition rpartition startswith endswith "
    "find rfind index rindex count upper lower title capitalize casefold swapcase replace join isalpha isdigit "
    "isnumeric isdecimal isalnum isspace isupper islower istitle"
).split())  # fmt: skip
METHODS: dict[type, frozenset[str]] = {
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("index", "count")),
}
METHODS[tuple] = METHODS[list]
LOOP_ATTRIBUTES = frozenset((
    "index index0 revindex revindex0 first last length previtem nextitem depth depth0 cycle changed"
).split())  # fmt: skip
FORBIDDEN: dict[type[nodes.Node], str] = {  # part of a template, and what it is called
    nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "from … import", nodes.Extends: "extends",
    nodes.Block: "block", nodes.ScopedEvalContextModifier: "autoescape", nodes.EvalContextModifier: "autoescape",
}  # fmt: skip
PROBLEMS = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a template wrote, and which parts stood inside {% generation %} (begin, end)."""

    text: str
    generated: tuple[tuple[int, int], ...] = ()


class SandboxedTemplate:
    """A chat template, checked and compiled.

    Args:
        source: Jinja as `transformers` takes it, `{% generation %}` included.
        today: the date that `strftime_now` gives. None: that function does not exist, as old templates expect.

    Raises:
        AthanorError: it is no Jinja, is too long, or uses what is not allowed.
    """

    def __init__(self, source: str, limits: Limits | None = None, today: date | None = None):
        self.limits = limits or Limits()
        if len(source) > self.limits.source:
            refuse(f"has {len(source)} characters", f"{self.limits.source} characters")
        self.environment = _Environment(today)
        token = METER.set(Meter(self.limits, 0))
        try:
            tree = self.environment.parse(source)
            self.generates = any(node.name == MARK for node in tree.find_all(nodes.Filter))
            _Rewriter().visit(tree)
            code = self.environment.compile(tree)
            self._template = jinja2.Template.from_code(self.environment, code, self.environment.make_globals(None))
        except (*PROBLEMS, SyntaxError, MemoryError) as problem:
            refuse(f"cannot be read as Jinja: {_shown(problem)}")
        finally:
            METER.reset(token)

    def render(self, variables: Mapping[str, Any]) -> Written:
        """The text for these variables, plain data only.

        Raises:
            AthanorError: the template refuses them, fails, or goes past a limit.
        """
        scale = Meter(Limits(characters=10**12), 0)
        for value in variables.values():
            scale.weigh(value)
        meter = Meter(self.limits, scale.allowed - scale.characters)
        token = METER.set(meter)
        parts: list[str] = []
        try:
            for part in self._template.generate(variables):
                parts.append(part)
                meter.position += len(part)
                if meter.position > meter.output:
                    refuse("writes too long a text", f"{meter.output} characters for this conversation")
        except jinja2.exceptions.SecurityError as problem:
            refuse(f"tries what no template may: {_shown(problem)}")
        except PROBLEMS as problem:
            refuse(f"fails: {_shown(problem)}")
        finally:
            METER.reset(token)
        return Written("".join(parts), tuple(meter.generated))


def _shown(problem: BaseException) -> str:
    text = str(problem) or type(problem).__name__
    line = getattr(problem, "lineno", None)
    return f"{text:.200}" + (f" (line {line})" if line else "")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with lists of what may be used."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self, today: date | None) -> None:
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False, cache_size=0)
        self.filters = {**allowed_filters(), EMIT: _emit, WEIGH: _weigh, COUNT: _count, LOOP: _loop}
        self.filters |= {ENTER: _enter, MARK: _mark}
        self.tests = allowed_tests()
        functions: dict[str, Any] = {"range": _range, "dict": _dict, "namespace": _Namespace, "raise_exception": _raise}
        if today is not None:
            functions["strftime_now"] = _clock(today)
        self.globals = dict(functions)
        self.functions = tuple(functions.values())

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read an attribute."""
        if attr.startswith("_"):
            return False
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, LoopContext):
            return attr in LOOP_ATTRIBUTES
        return isinstance(obj, Namespace) or attr in METHODS.get(type(obj), frozenset())

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute or item with a name that is not private."""
        _refuse_private(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item or attribute; a key that holds others is paid for, because its hash reads all of it."""
        if isinstance(argument, tuple):
            METER.get().weigh(argument)
        elif isinstance(argument, str):
            _refuse_private(obj, argument)
        return super().getitem(obj, argument)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template may call."""
        meter = METER.get()
        meter.step(1)
        meter.pay(ITEM * (len(args) + len(kwargs)))
        if isinstance(obj, Macro):
            return _call_macro(meter, context, obj, args, kwargs)
        if isinstance(obj, Undefined) or any(obj is function for function in self.functions):
            return context.call(obj, *args, **kwargs)
        for local in ("_loop_vars", "_block_vars"):  # Jinja hands them to every call; only its own functions want them
            kwargs.pop(local, None)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name in TEXT_METHODS:
            return _call_text(meter, owner, name, args, kwargs)
        if name in METHODS.get(type(owner), frozenset()) or (
            isinstance(owner, LoopContext) and name in ("cycle", "changed")
        ):
            for value in args:
                meter.weigh(value)
            return obj(*args, **kwargs)
        refuse(f"calls {name or type(obj).__name__!r}", "methods of texts and mappings, its own macros, and functions")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, once the result is paid for."""
        meter = METER.get()
        if operator == "%" and isinstance(left, str):
            pay_for_percent(meter, left, right)
        elif operator in "+*" and not (_is_number(left) and _is_number(right)):
            meter.pay(_length_of_result(operator, left, right))
        elif operator in ("-", "/", "//") and any(isinstance(value, BOXES) for value in (left, right)):
            raise TypeError(f"{type(left).__name__} {operator} {type(right).__name__} is not defined here")
        elif operator == "**" and not _is_small_power(left, right, meter.limits.bits):
            refuse("computes a power that is too large", f"{meter.limits.bits} bits")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int):
            meter.check_number(result)
        return result


def _refuse_private(obj: Any, name: str) -> None:
    if name.startswith("_") and not (isinstance(obj, dict) and name in obj):
        raise jinja2.exceptions.SecurityError(f"the attribute {name!r} of a {type(obj).__name__}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_small_power(left: Any, right: Any, bits: int) -> bool:
    if not isinstance(right, int) or not isinstance(left, int):
        return _is_number(left) and _is_number(right)  # floats overflow by themselves
    return abs(right) <= bits and left.bit_length() * abs(right) <= bits


def _length_of_result(operator: str, left: Any, right: Any) -> int:
    """Characters of a sum or a multiple of texts or lists, before it is made."""
    sizes = [_size(value) for value in (left, right)]
    if operator == "+":
        return sum(sizes)
    times = next((value for value in (left, right) if isinstance(value, int)), 1)
    return max(sizes) * max(times, 0)


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) + 1
    return ITEM * (len(value) + 1) if isinstance(value, list | tuple) else 1


def _call_macro(meter: Meter, context: Any, macro: Macro, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    meter.macros += 1
    if meter.macros > meter.limits.macros:
        refuse("calls macros within macros too deeply", f"{meter.limits.macros} levels")
    try:
        return context.call(macro, *args, **kwargs)
    finally:
        meter.macros -= 1


def _call_text(meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name == "join" and len(args) == 1 and not isinstance(args[0], str | Undefined):
        args = (list(args[0]),)
        meter.pay(len(text) * len(args[0]))
    meter.weigh(text)
    for value in (*args, *kwargs.values()):
        meter.weigh(value)
    if name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        meter.pay(text.count(args[0]) * len(args[1]))
    result = getattr(text, name)(*args, **kwargs)
    meter.weigh(result)
    return result


class _Namespace(Namespace):
    """Jinja's namespace, whose names may not begin with an underscore."""

    def __init__(self, /, *given: Any, **values: Any) -> None:
        super().__init__()
        for name, value in dict(*given, **values).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            refuse(f"sets {name!r} in a namespace", "names without an underscore before them")
        super().__setitem__(name, value)


def _range(*bounds: int) -> range:
    found = range(*bounds)
    METER.get().pay(ITEM * len(found) if len(found) < 10**9 else 10**15)
    return found


def _dict(*given: Any, **values: Any) -> dict[str, Any]:
    if not all(isinstance(one, dict) for one in given) or len(given) > 1:
        refuse("calls dict() with a list", "dict(name=value), dict(mapping)")
    found = {**(given[0] if given else {}), **values}
    METER.get().weigh(found)
    return found


def _raise(message: Any) -> NoReturn:
    METER.get().weigh(message)
    raise AthanorError(f"the chat template refuses this conversation: {message!s:.300}")


def _clock(today: date) -> Callable[[str], str]:
    moment = datetime(today.year, today.month, today.day)

    def strftime_now(form: Any) -> str:
        if not isinstance(form, str) or len(form) > 200 or re.search(r"%(?![-_^#]?[A-Za-z%])", form):
            refuse(f"writes the date as {form!r:.60}", "strftime's letters without a width")
        return moment.strftime(form)

    return strftime_now


# ----------------------------------------------------------------- what the rewritten tree calls: it pays and counts


@pass_context
def _emit(context: Any, value: Any) -> str:
    """What `{{ value }}` writes, paid for."""
    METER.get().weigh(value)
    return str(value)


@pass_context
def _weigh(context: Any, value: Any) -> Any:
    METER.get().weigh(value, iterator=True)
    return value


@pass_context
def _count(context: Any, value: Any) -> Any:
    METER.get().count(value)
    return value


@pass_context
def _loop(context: Any, values: Any, cost: int) -> Iterator[Any]:
    """The items of a loop; each pays for the body."""
    meter = METER.get()
    meter.step(cost)
    for value in values:
        meter.step(cost)
        yield value


@pass_context
def _enter(context: Any, cost: int) -> None:
    METER.get().step(cost)


@pass_context
def _mark(context: Any, begins: bool) -> str:
    meter = METER.get()
    if begins:
        meter.begun.append(meter.position)
    else:
        meter.generated.append((meter.begun.pop(), meter.position))
    return ""


# ----------------------------------------------------------------------------------------------- the tree, made to pay


class _Generation(Extension):
    """`{% generation %}`: what the assistant says, as `transformers` marks it."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body in a scope of its own, between two marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([_wrapped(nodes.Const(flag), MARK)]) for flag in (True, False))
        return [node.set_lineno(line) for node in (begin, nodes.Scope(body), end)]


def _wrapped(node: nodes.Node, name: str, *args: int) -> nodes.Filter:
    """A node through one of our own filters, whose names no template can spell."""
    values = [nodes.Const(value) for value in args]
    return nodes.Filter(node, name, values, [], None, None, lineno=node.lineno)


def _cost(node: nodes.Node) -> int:
    """How many parts a loop's or macro's body has."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


class _Rewriter(NodeTransformer):
    """Makes every part of a template that can take long or grow pay for it."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if type(node) in FORBIDDEN:
            refuse(f"uses {{% {FORBIDDEN[type(node)]} %}} in line {node.lineno}", "what transformers' templates use")
        return super().generic_visit(node, *args, **kwargs)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_wrapped(child, EMIT) for child in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            refuse(f"uses a recursive loop in line {node.lineno}", "macros that call themselves")
        cost = _cost(node)
        self.generic_visit(node)
        node.iter = _wrapped(node.iter, LOOP, cost)
        return node

    def _visit_called(self, node: Any) -> nodes.Node:
        if any(one.name == MARK for one in node.find_all(nodes.Filter)):
            refuse(f"uses {{% generation %}} inside a macro or block in line {node.lineno}", "between other text")
        cost = _cost(node)
        self.generic_visit(node)
        if isinstance(node, nodes.Macro | nodes.CallBlock):
            node.body = [nodes.ExprStmt(_wrapped(nodes.Const(cost), ENTER), lineno=node.lineno), *node.body]
        return node

    visit_Macro = visit_CallBlock = visit_AssignBlock = visit_FilterBlock = _visit_called

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _wrapped(node.expr, WEIGH)
        for operand in node.ops:
            operand.expr = _wrapped(operand.expr, WEIGH)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_wrapped(child, EMIT) for child in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node, COUNT) if isinstance(node.arg, nodes.Slice) else node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _wrapped(node.key, WEIGH)  # its hash reads all of it
        return node

    def _visit_literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _wrapped(node, COUNT)

    visit_List = visit_Dict = visit_Tuple = _visit_literal
