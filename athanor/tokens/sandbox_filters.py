"""The filters and tests that a stranger's chat template may use, each paying for what it reads and makes."""

import json
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import jinja2
from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from athanor.tokens.budget import ITEM, METER, Meter, refuse

SORTING = 20  # comparisons per item
MOST_INDENT = 16
READING = (
    "abs capitalize dictsort e escape float forceescape int lower max min safe string title trim truncate upper".split()
)
MOVING = "count first items last length list map reject rejectattr reverse select selectattr".split()  # items unread
COMPARING = "== != < > <= >= eq ne lt gt le ge equalto lessthan greaterthan in sameas lower upper".split()


def pay_for_percent(meter: Meter, text: str, values: Any) -> None:
    if re.search(r"%[^a-zA-Z%]*(\d{4}|\*)", text):
        refuse("formats with a width that is too large or computed", "widths up to 999")
    meter.weigh(text)
    meter.weigh(values)
    meter.pay(1000 * text.count("%"))


def _count(value: Any) -> None:
    METER.get().count(value)


def _weigh_sequence(value: Any) -> None:
    METER.get().weigh(value, iterator=True)


def _metered(function: Callable[..., Any], weigh: Callable[[Any], None], times: int = 1) -> Callable[..., Any]:
    """A filter or test that pays for what it is given and what it gives, `times` over."""
    special = 1 if hasattr(function, "jinja_pass_arg") else 0  # context, evaluation context or environment

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[special:], *kwargs.values()):
            for _ in range(times):
                weigh(value)
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            result = iter(_all_paid(result, weigh))
        else:
            weigh(result)
        return result

    return metered


def _all_paid(values: Iterator[Any], weigh: Callable[[Any], None]) -> list[Any]:
    meter, found = METER.get(), []
    for value in values:
        meter.pay(ITEM)
        weigh(value)
        found.append(value)
    return found


def allowed_filters() -> dict[str, Any]:
    """The filters that templates may use."""
    table = {name: _metered(FILTERS[name], _weigh_sequence) for name in READING}
    table |= {name: _metered(FILTERS[name], _count) for name in MOVING}
    table["sort"] = _metered(FILTERS["sort"], _weigh_sequence, SORTING)
    table["format"] = _metered(_format, _weigh_sequence)
    table["replace"] = _metered(_replace, _weigh_sequence)
    table["join"] = _metered(_join, _weigh_sequence)
    table["indent"] = _metered(_indent, _weigh_sequence)
    table["tojson"] = _metered(_tojson, _weigh_sequence)
    table["default"] = table["d"] = FILTERS["default"]
    return table


def allowed_tests() -> dict[str, Any]:
    """Jinja's tests, all of them."""
    tests: dict[str, Any] = dict(TESTS)
    return {name: _metered(test, _weigh_sequence) if name in COMPARING else test for name, test in tests.items()}


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    pay_for_percent(METER.get(), str(value), list(args or kwargs.values()))
    return FILTERS["format"](value, *args, **kwargs)


@jinja2.pass_eval_context
def _replace(evaluation: Any, text: Any, old: Any, new: Any, count: int | None = None) -> Any:
    METER.get().pay(str(text).count(str(old)) * len(str(new)))
    return FILTERS["replace"](evaluation, text, old, new, count)


@jinja2.pass_eval_context
def _join(evaluation: Any, values: Any, between: Any = "", attribute: Any = None) -> Any:
    listed = list(values)
    METER.get().weigh(listed)
    METER.get().pay(len(listed) * len(str(between)))
    return FILTERS["join"](evaluation, listed, between, attribute)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    size = len(width) if isinstance(width, str) else width
    if not 0 <= size <= MOST_INDENT:
        refuse(f"indents by {size}", f"0 to {MOST_INDENT}")
    METER.get().pay((text.count("\n") + 1) * size)
    return FILTERS["indent"](text, width, first, blank)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as `transformers` writes it for templates, which is not as Jinja does: nothing is escaped for HTML."""
    if indent is not None:
        if not isinstance(indent, int) or not 0 <= indent <= MOST_INDENT:
            refuse(f"indents JSON by {indent!r:.20}", f"0 to {MOST_INDENT}")
        for _ in range(indent):
            METER.get().weigh(value, iterator=True)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and tuple(separators),
        sort_keys=sort_keys,
    )
