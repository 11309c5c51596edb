"""A page as a list of blocks: the text between two borders of paragraphs, with the elements it stands in.

The browser's parser (lexbor) repairs the markup; its serialisation is regular, so one regular expression cuts it into
tags and texts, which is several times faster than walking over node objects.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser

from athanor.data.reading.decode import Unreadable
from athanor.data.reading.page_words import role_of

NEVER_TEXT = (
    "script style noscript template svg annotation iframe object embed canvas video audio select option datalist"
    " textarea input button img source link meta noembed noframes plaintext xmp map figcaption rt rp"
).split()
MENUS = ["nav", "footer", "menu"]  # hold a quarter of the web's markup and, outside broken pages, no main text
TOKEN = re.compile(r"<(?:!--.*?--|(/?)([a-z][^\s>/]*)((?: [^ >]+?=\"[^\"]*\")*))>([^<]*)", re.DOTALL)
BLOCKS = frozenset(
    "p div h1 h2 h3 h4 h5 h6 li dt dd pre blockquote td th tr caption figure section article main body header footer"
    " nav aside form center address details summary ul ol dl table tbody thead tfoot fieldset legend hgroup menu"
    " dialog".split()
)
AT_ONCE = 4_000_000  # letters of markup: the tokens of a longer page are not held together
BLANKS = re.compile(r"\s+")


# The standard's way to repair markup takes time that grows with the square of what is open: a page of 100 kB can take
# minutes and gigabytes. No page that was written to be read comes near these limits.
CLOSED_BY_ITSELF = (
    "a|area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|p|li|dd|dt|td|th|tr|option|optgroup|tbody|"
    "thead|tfoot|colgroup"
)
NESTED_TAG = re.compile(rf"<(/?)(?!(?:{CLOSED_BY_ITSELF})(?![\w-]))([a-zA-Z]+)", re.IGNORECASE)
STYLE_TAG = re.compile(r"<(/?)(b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?![\w-])([^<>]*)", re.IGNORECASE)
ALIKE = 3  # style elements with the same attributes that are opened again in the next paragraph
MOST_WORK = 300_000_000  # tags times the elements that are open together: about a second
MOST_STYLE_WORK = 5_000_000  # tags times the style elements that are open together


@dataclass(slots=True)
class Element:
    """An element that holds blocks; `parent` is the place of the element around it in the page's list."""

    parent: int
    tag: str
    role: int
    code: bool


@dataclass(slots=True)
class Block:
    """One paragraph, heading, list item or piece of code."""

    element: int
    tag: str
    code: bool
    pieces: list[str] = field(default_factory=list)
    linked: int = 0  # letters inside links
    text: str = ""

    def finish(self) -> None:
        """Join the pieces: code as it stands, other text with single blanks."""
        text = "".join(self.pieces)
        if "&" in text:
            text = html.unescape(text)
        self.text = text.strip("\n").rstrip() if self.code else " ".join(text.split())

    @property
    def link_density(self) -> float:
        """Share of the letters that are inside links."""
        return min(1.0, self.linked / max(1, len(self.text)))


def _tokens(markup: str) -> Iterable[tuple[str, str, str, str]]:
    """Every tag (a stroke when it closes, its name, its attributes) with the text behind it."""
    if len(markup) < AT_ONCE:
        return TOKEN.findall(markup)
    return (match.groups("") for match in TOKEN.finditer(markup))  # type: ignore[misc]  # four groups


def refuse_tangled(markup: str) -> None:
    """Refuse a page that would take the parser minutes.

    Raises:
        Unreadable: too many elements are opened and not closed.
    """
    tags = markup.count("<")
    if tags * tags > MOST_STYLE_WORK:  # no more can be open than there are tags
        _refuse_work(_most_open(STYLE_TAG.findall(markup), ALIKE), tags, MOST_STYLE_WORK)
    if tags * tags > MOST_WORK:
        _refuse_work(_most_open((close, tag, "") for close, tag in NESTED_TAG.findall(markup)), tags, MOST_WORK)


def _refuse_work(most: int, tags: int, limit: int) -> None:
    if most * tags > limit:
        raise Unreadable("page nested too deep", f"{most} elements opened and not closed")


def _most_open(tags: Iterable[tuple[str, str, str]], alike: int | None = None) -> int:
    """How many elements are open at most, of those with the same attributes no more than `alike` counted."""
    opened: dict[str, list[str]] = {}
    count: Counter[tuple[str, str]] = Counter()
    now = most = 0
    for close, tag, attributes in tags:
        stack = opened.setdefault(tag, [])
        if not close:
            stack.append(attributes)
            count[tag, attributes] += 1
            now += alike is None or count[tag, attributes] <= alike
            most = max(most, now)
        elif stack:
            attributes = stack.pop()
            now -= alike is None or count[tag, attributes] <= alike
            count[tag, attributes] -= 1
    return most


def cut_into_blocks(tree: LexborHTMLParser, menus: bool) -> tuple[list[Element], list[Block]]:
    """The elements of the page's body in the order they open, and the blocks of text that are not empty, in order.

    The tree loses what is never text and, unless `menus`, its menus.
    """
    tree.strip_tags(NEVER_TEXT if menus else NEVER_TEXT + MENUS)
    body = tree.body
    elements = [Element(0, "body", 0, False)]
    blocks: list[Block] = []
    if body is None or body.html is None:
        return elements, blocks
    place, links, around = 0, 0, [0]  # around: the open elements that hold blocks
    block: Block | None = None
    for close, tag, attributes, text in _tokens(body.html):
        if tag == "a":
            links += -1 if close else 1
        elif tag in BLOCKS:
            block = None
            if close:
                while len(around) > 1 and elements[around.pop()].tag != tag:
                    pass
                place = around[-1]
            else:
                code = tag == "pre" or elements[place].code
                role = role_of(tag, attributes) if attributes or tag != "p" else 0
                elements.append(Element(place, tag, 0 if tag == "body" else role, code))
                place = len(elements) - 1
                around.append(place)
        elif tag == "br":
            text = "\n" + text
        if not text or (block is None and text.isspace()):
            continue
        if block is None:
            element = elements[place]
            block = Block(place, element.tag, element.code)
            blocks.append(block)
        block.pieces.append(text)
        if links > 0:
            block.linked += len(text.strip())
    for block in blocks:
        block.finish()
    return elements, [block for block in blocks if block.text]
