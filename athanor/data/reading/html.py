"""Main text of an HTML page: what a reader came for, without menus, adverts and forms.

The page is cut into blocks (paragraph, heading, list item, code). Running text counts for the elements around it,
links, menus and teasers count against them, and the element where the sum is largest is the main part (the tree form
of maximum subsequence segmentation: Pasternack & Roth 2009, "Extracting article text from the web"); in it, blocks that
are mostly links (link density: Kohlschütter et al. 2010, "Boilerplate detection using shallow text features"), that
stand in an element named as furniture, or that say so themselves ("Leave a comment") are left out.
"""

import codecs
import json
import re

from selectolax.lexbor import LexborHTMLParser

from athanor.data.reading.decode import MARKS, Unreadable
from athanor.data.reading.page_blocks import BLANKS, Block, Element, cut_into_blocks, refuse_tangled
from athanor.data.reading.page_words import APART, ARTICLE, FURNITURE, is_furniture_phrase

HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
MOSTLY = 0.45  # of the page's running text: an element with more is not furniture, whatever its name
NEARLY_ALL = 0.9  # the same for comments and notices
PROSE = 80  # letters: a shorter block does not count as running text
SHORT = 25  # letters: a shorter block outside a paragraph is more likely a label
ITEMS = ("li", "td", "th", "dt", "dd")
LINKED_LIST = 0.4  # share of a list's or row's letters in links: with more, it is a menu
FEW = 200  # letters of main text that raise suspicion
LOOK_BACK = 25  # blocks before the main part in which its heading is looked for
STATES = '"articleBody"'
STATED = re.compile(r"\"articleBody\"\s*:\s*(\"[^\"\\]*(?:\\.[^\"\\]*)*\")", re.DOTALL)
PARAGRAPH = re.compile(r"</?(?:p|br|div|h\d|li)\b[^>]*>")
CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([-\w]+)", re.IGNORECASE)
ALIASES = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252"}


def declared_encoding(data: bytes) -> str | None:
    """The encoding a page declares by byte order mark or <meta charset>, None when it declares none we know."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    match = CHARSET.search(data[:8192])
    if not match:
        return None
    return find_codec(match.group(1).decode("ascii", errors="ignore"))


def find_codec(stated: str) -> str | None:
    """Python's name of an encoding as browsers take it, None when it is not known."""
    name = stated.lower()
    name = ALIASES.get(name, name)
    try:
        b"".decode(name)  # refuses what is a codec and no encoding of text, such as hex
        return codecs.lookup(name).name
    except (LookupError, UnicodeError):
        return None


def whole_text(markup: str) -> str:
    """The text of a page that has nothing but text, such as a chapter of a book; may be empty.

    Raises:
        Unreadable: it is no page to be read.
    """
    refuse_tangled(markup)
    return _join(cut_into_blocks(LexborHTMLParser(markup), menus=True)[1])


def main_text(markup: str) -> tuple[str, str]:
    """(title, main text) of a page; blocks are separated by blank lines, list items by line ends.

    Raises:
        Unreadable: the page holds no running text, or is no page to be read.
    """
    refuse_tangled(markup)
    tree = LexborHTMLParser(markup)
    title_node = tree.css_first("title")
    title = BLANKS.sub(" ", title_node.text()).strip() if title_node else ""
    text = _text_of(*cut_into_blocks(tree, menus=False), FURNITURE | APART)
    if len(text) < FEW:  # the names may have misled: trust fewer of them
        again = _text_of(*cut_into_blocks(LexborHTMLParser(markup), menus=True), APART)
        text = again if len(again) > max(FEW, 2 * len(text)) else text
    if STATES in markup:
        text = _longer(text, _stated_body(markup))
    if not text:
        raise Unreadable("no text in the page")
    return title, text


def _text_of(elements: list[Element], blocks: list[Block], distrusted: int) -> str:
    return _join(_without_furniture(_main_part(elements, blocks, distrusted)))


def _stated_body(markup: str) -> str:
    """The text that the page states as data (schema.org's articleBody in JSON-LD), without markup; may be empty."""
    match = STATED.match(markup, markup.find(STATES))  # one attempt: a page may hold the words a million times
    if match is None:
        return ""
    try:
        stated = json.loads(match.group(1), strict=False)
    except ValueError:
        return ""
    if "<" in stated:
        stated = LexborHTMLParser(PARAGRAPH.sub("\n", stated)).text()
    return "\n\n".join(" ".join(line.split()) for line in stated.splitlines() if line.strip())


def _longer(shown: str, stated: str) -> str:
    """The shown text, unless the page's script holds most of it."""
    return stated if len(stated) > FEW and len(shown) < 0.5 * len(stated) else shown


def _main_part(elements: list[Element], blocks: list[Block], distrusted: int) -> list[Block]:
    """The blocks of the main part, in order, without those in elements named as one of `distrusted`."""
    apart_E = _set_apart(elements, blocks, distrusted)
    shown = [block for block in blocks if not apart_E[block.element]]
    best = _find_best(elements, blocks, apart_E)
    if best is None:
        return [block for block in shown if _is_text(block)]
    inside_E = [False] * len(elements)
    inside_E[best] = True
    for number in range(best + 1, len(elements)):
        inside_E[number] = inside_E[elements[number].parent]
    inside = [number for number, block in enumerate(shown) if inside_E[block.element]]
    main = _running([shown[number] for number in inside], elements)
    if inside and not any(block.tag == "h1" for block in main):
        main = _lead(shown[: inside[0]]) + main
    return main


def _find_best(elements: list[Element], blocks: list[Block], apart_E: list[bool]) -> int | None:
    """The place of the element that holds the text, None when no element has more text than furniture."""
    worth_E = [0.0] * len(elements)
    for block in blocks:
        worth_E[block.element] += -20.0 - 0.15 * len(block.text) if apart_E[block.element] else _worth(block)
    best, most = None, 0.0
    for number in range(len(elements) - 1, -1, -1):  # children stand behind their parents
        element, worth = elements[number], worth_E[number]
        if number:
            worth_E[element.parent] += worth
        if element.role & ARTICLE:
            worth *= 1.2
        if worth > most:
            best, most = number, worth
    return best


def _worth(block: Block) -> float:
    """What a block says for the elements around it: letters of running text; links and bits count against."""
    size = len(block.text)
    if block.linked > 0.5 * size:
        return -20.0 - 0.3 * size
    if block.tag == "p" or block.code:
        return size - block.linked - 5.0
    if size < SHORT:
        return -8.0
    return size - block.linked - float(SHORT)


def _set_apart(elements: list[Element], blocks: list[Block], distrusted: int) -> list[bool]:
    """Which elements stand in something named as furniture that is not most of the page's running text."""
    prose_E = [0] * len(elements)
    for block in blocks:
        if len(block.text) >= PROSE and block.linked < 0.5 * len(block.text):
            prose_E[block.element] += len(block.text)
    for number in range(len(elements) - 1, 0, -1):
        prose_E[elements[number].parent] += prose_E[number]
    limit_of = {FURNITURE: MOSTLY * prose_E[0], APART: NEARLY_ALL * prose_E[0]}
    apart_E = [False] * len(elements)
    for number, element in enumerate(elements):
        role = element.role & distrusted
        if number == 0 or not role:
            apart_E[number] = apart_E[element.parent]
        else:
            limit = limit_of[APART if role & APART else FURNITURE]
            apart_E[number] = apart_E[element.parent] or prose_E[number] <= limit
    return apart_E


def _running(blocks: list[Block], elements: list[Element]) -> list[Block]:
    """The blocks that are more than links; an item or a cell is judged together with its list or row."""
    letters: dict[int, list[int]] = {}
    for block in blocks:
        if block.tag in ITEMS:
            sums = letters.setdefault(elements[block.element].parent, [0, 0])
            sums[0] += len(block.text)
            sums[1] += block.linked
    kept = []
    for block in blocks:
        if _is_text(block):
            kept.append(block)
        elif block.tag in ITEMS:
            size, linked = letters[elements[block.element].parent]
            if linked < LINKED_LIST * size:
                kept.append(block)
    return kept


def _is_text(block: Block) -> bool:
    """Whether a block of the main part is more than links."""
    density = block.link_density
    if density < 0.5:
        return True
    return density < 0.8 and (len(block.text) > 100 or (block.tag == "p" and len(block.text) - block.linked >= SHORT))


def _lead(before: list[Block]) -> list[Block]:
    """The heading above the main part and the running text between: a lead often stands in a box of its own."""
    before = before[-LOOK_BACK:]
    for number in range(len(before) - 1, -1, -1):
        if before[number].tag == "h1":
            following = before[number + 1 :]
            return [
                before[number],
                *(block for block in following if len(block.text) >= 60 and block.link_density < 0.3),
            ]
    return []


def _without_furniture(blocks: list[Block]) -> list[Block]:
    """The blocks whose words belong to the text; a heading that nothing follows goes too."""
    kept = [block for block in blocks if block.code or not is_furniture_phrase(block.text)]
    while len(kept) > 1 and kept[-1].tag in HEADINGS:
        kept.pop()
    return kept


def _join(blocks: list[Block]) -> str:
    """Blocks as text: headings with #, list items with -, code as it stands."""
    parts: list[str] = []
    for number, block in enumerate(blocks):
        tag = block.tag
        mark = HEADINGS.get(tag, "- " if tag in ("li", "dd") else "")
        close = tag in ("li", "td", "th") and number > 0 and blocks[number - 1].tag == tag
        parts += ["\n" if close else "\n\n", mark, block.text]
    return "".join(parts).strip()
