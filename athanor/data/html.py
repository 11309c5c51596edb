"""Main text of an HTML page: what a reader came for, without menus, adverts and forms.

The text nodes of the page are gathered into blocks (paragraph, heading, list item, code); running-text blocks give
points to the elements around them, and the element with the most points is the main part, an idea of
Readability (Arc90, 2009); blocks that are mostly links are left out (link density: Kohlschütter et al. 2010,
"Boilerplate detection using shallow text features").
"""

import codecs
import re
from collections import defaultdict
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from athanor.data.decode import MARKS, Unreadable

REMOVED = (
    "script, style, noscript, template, svg, math annotation, iframe, object, embed, canvas, video, audio, nav, footer,"
    " aside, form, button, select, textarea, input, dialog, [hidden], [aria-hidden=true], [role=navigation],"
    " [role=banner], [role=contentinfo], [role=search], [role=complementary], [role=dialog]"
)
BLOCKS = frozenset(
    "p div h1 h2 h3 h4 h5 h6 li dt dd pre blockquote td th tr caption figcaption section article main body header"
    " center address details summary ul ol dl table fieldset hgroup".split()
)
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
# Names of classes and ids that say "not the text". Matched between non-letters, so that "shared" is not "share".
NOISE = re.compile(
    r"(?<![a-z])(comments?|commentlist|disqus|sidebar|side|widget|share|sharing|social|cookies?|consent|breadcrumbs?|menu|"
    r"nav|navi|navigation|navbar|footer|related|recommend(?:ed|ations)?|promo|advert|ads?|banner|popup|modal|newsletter|"
    r"subscribe|login|pager|pagination|tags?|tagcloud|toolbar|skip|masthead|rss|print|meta|byline)(?![a-z])"
)
ASKS_FOR_PROSE = 25  # letters: a shorter block says little about where the text is
CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([-\w]+)", re.IGNORECASE)
ALIASES = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252"}
BLANKS = re.compile(r"\s+")


@dataclass(slots=True)
class Place:
    """Where an element stands: what its text nodes inherit from the elements around it."""

    block: int
    tag: str
    linked: bool
    code: bool
    above: tuple[int, ...]  # the elements around the block, outermost first


@dataclass(slots=True)
class Block:
    """One paragraph, heading, list item or piece of code."""

    place: Place
    pieces: list[str] = field(default_factory=list)
    linked: int = 0  # letters inside links

    @property
    def text(self) -> str:
        joined = "".join(self.pieces)
        return joined.strip("\n").rstrip() if self.place.code else BLANKS.sub(" ", joined).strip()


def declared_encoding(data: bytes) -> str | None:
    """The encoding a page declares by byte order mark or <meta charset>, None when it declares none we know."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return encoding
    match = CHARSET.search(data[:8192])
    if not match:
        return None
    name = match.group(1).decode("ascii", errors="ignore").lower()
    name = ALIASES.get(name, name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return None


def main_text(markup: str) -> tuple[str, str]:
    """(title, main text) of a page; blocks are separated by blank lines, list items by line ends.

    Raises:
        Unreadable: the page holds no running text.
    """
    tree = LexborHTMLParser(markup)
    title_node = tree.css_first("title")
    title = BLANKS.sub(" ", title_node.text()).strip() if title_node else ""
    body = tree.body
    if body is None:
        raise Unreadable("no text in the page")
    for node in body.css(REMOVED):
        node.decompose()
    _drop_noise(body)
    blocks = [block for block in _blocks(body) if block.text]
    text = _join(_main_part(blocks))
    if not text:
        raise Unreadable("no text in the page")
    return title, text


def _drop_noise(body: LexborNode) -> None:
    """Remove elements whose class or id says that they are not the text, unless most of the page is in them."""
    whole = len(body.text() or "")
    for node in body.css("[class], [id]"):
        if node.tag in ("body", "html", "article", "main") or node.parent is None:
            continue
        attributes = node.attributes
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".lower()
        if NOISE.search(names) and len(node.text() or "") < 0.4 * whole:
            node.decompose()


def _blocks(body: LexborNode) -> list[Block]:
    """The page's text nodes in order, gathered by the block element they stand in."""
    places: dict[int, Place] = {}
    blocks: list[Block] = []
    for node in body.traverse(include_text=True):
        if node.tag == "br" and blocks:
            blocks[-1].pieces.append("\n")
        if node.tag != "-text" or node.parent is None:
            continue
        text = node.text_content or ""
        place = _place(node.parent, places)
        if not blocks or blocks[-1].place.block != place.block:
            if not text.strip():
                continue
            blocks.append(Block(place))
        blocks[-1].pieces.append(text)
        blocks[-1].linked += len(text.strip()) if place.linked else 0
    return blocks


def _place(node: LexborNode, places: dict[int, Place]) -> Place:
    """Where an element stands; remembered, so that a deep page costs no more than its number of elements."""
    path: list[LexborNode] = []
    current: LexborNode | None = node
    while current is not None and current.mem_id not in places:
        path.append(current)
        current = current.parent
    place = places[current.mem_id] if current is not None else Place(0, "", False, False, ())
    for element in reversed(path):
        tag = element.tag or ""
        above = place.above
        block, block_tag = place.block, place.tag
        if tag in BLOCKS:
            above = (*above[-3:], block)
            block, block_tag = element.mem_id, tag
        place = Place(block, block_tag, place.linked or tag == "a", place.code or tag == "pre", above)
        places[element.mem_id] = place
    return place


def _main_part(blocks: list[Block]) -> list[Block]:
    """The blocks of the main part, in order."""
    points: dict[int, float] = defaultdict(float)
    for block in blocks:
        size = len(block.text)
        if size < ASKS_FOR_PROSE or _link_density(block) > 0.3 or block.place.tag in HEADINGS:
            continue
        weight = size**0.75 * (1 + block.text.count(",") * 0.05 + block.text.count("，") * 0.05)
        for distance, element in enumerate((block.place.block, *reversed(block.place.above))):
            points[element] += weight * (0.6, 1.0, 0.8, 0.6, 0.4)[distance]
    if not points:
        return [block for block in blocks if _link_density(block) < 0.5]
    best = max(points.values())
    chosen = {element for element, value in points.items() if value >= 0.35 * best}
    return [block for block in blocks if _belongs(block, chosen)]


def _belongs(block: Block, chosen: set[int]) -> bool:
    inside = block.place.block in chosen or any(element in chosen for element in block.place.above)
    if not inside:
        return False
    density = _link_density(block)
    return density < 0.5 or (density < 0.8 and len(block.text) > 100)


def _link_density(block: Block) -> float:
    """Share of a block's letters that are inside links."""
    return min(1.0, block.linked / max(1, len(block.text)))


def _join(blocks: list[Block]) -> str:
    """Blocks as text: headings with #, list items with -, code as it stands."""
    parts: list[str] = []
    for number, block in enumerate(blocks):
        tag = block.place.tag
        mark = HEADINGS.get(tag, "- " if tag in ("li", "dd") else "")
        close = tag in ("li", "td", "th") and number > 0 and blocks[number - 1].place.tag == tag
        parts += ["\n" if close else "\n\n", mark, block.text]
    return "".join(parts).strip()
