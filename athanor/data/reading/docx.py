"""Documents of word processors (DOCX, ISO/IEC 29500): paragraphs, headings, lists, tables and notes as text.

Text that was deleted or moved away under tracked changes is left out; running headers and footers too.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import ReadLimits, SetAside, documents_of
from athanor.data.reading.packages import Package, XmlReader, elements
from athanor.data.reading.sources import SourceFile

RELATIONS, USUAL = "_rels/.rels", "word/document.xml"
HEADING = re.compile(r"(?:heading|标题) ?([1-6])", re.IGNORECASE)
OUTLINE_LEVELS = tuple("012345")
LEFT_OUT = {"Fallback", "moveFrom", "del", "instrText", "delText"}  # Fallback repeats what stands before it
LETTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
SEPARATORS = ("separator", "continuationSeparator", "continuationNotice")


def read_docx(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The text of a document, its foot- and endnotes behind it."""
    with file.open() as stream:
        package = Package(stream, "DOCX")
        found = False
        for item in documents_of(_texts(package), file.name, limits):
            found = True
            yield item
    if not found:
        raise Unreadable("no text in the DOCX")


def _texts(package: Package) -> Iterator[str]:
    """The text in pieces, with the blank lines between its blocks."""
    main = _main_part(package)
    folder = posixpath.dirname(main)
    styles = _read_styles(package, posixpath.join(folder, "styles.xml"))
    before: str | None = None
    for part in (main, *(posixpath.join(folder, name) for name in ("footnotes.xml", "endnotes.xml"))):
        if part != main and part not in package.names:
            continue
        for kind, text in _blocks(package, part, styles):
            if before is not None:
                yield "\n" if kind == before == "item" else "\n\n"
            yield text
            before = kind


def _main_part(package: Package) -> str:
    if RELATIONS in package.names:
        for name, attributes, _ in elements(RELATIONS, package.read(RELATIONS)):
            if name == "Relationship" and attributes.get("Type", "").endswith("/officeDocument"):
                return attributes.get("Target", USUAL).lstrip("/")
    return USUAL


@dataclass(slots=True)
class _Style:
    """What a paragraph's style says: the level of a heading from 1 (0: none), whether it is a list item."""

    name: str = ""
    based_on: str = ""
    level: int = 0
    is_item: bool = False


def _read_styles(package: Package, part: str) -> dict[str, _Style]:
    """The styles by their ids; what a style does not say, the one it is based on says."""
    if part not in package.names:
        return {}
    styles: dict[str, _Style] = {}
    style = _Style()
    for name, attributes, _ in elements(part, package.read(part)):
        value = attributes.get("val", "")
        if name == "style":
            style = styles.setdefault(attributes.get("styleId", ""), _Style())
        elif name == "name" and not style.name:
            style.name = value
            match = HEADING.fullmatch(value)
            style.level = int(match.group(1)) if match else int(value.lower() == "title")
        elif name == "basedOn":
            style.based_on = value
        elif name == "outlineLvl" and value in OUTLINE_LEVELS:
            style.level = style.level or int(value) + 1
        elif name == "numId":
            style.is_item = value != "0"
    for style in styles.values():
        ancestor, steps = styles.get(style.based_on), 0
        while ancestor is not None and steps < 10:
            style.level = style.level or ancestor.level
            style.is_item = style.is_item or ancestor.is_item
            ancestor, steps = styles.get(ancestor.based_on), steps + 1
    return styles


def _blocks(package: Package, part: str, styles: dict[str, _Style]) -> Iterator[tuple[str, str]]:
    """("text", "item" or "table", text) of the blocks of a part, as they are read."""
    body = _Body(styles)
    reader = XmlReader(part, body.start, body.end, body.text)
    for data in package.blocks(part):
        reader.feed(data)
        yield from body.take()
    reader.feed(b"", last=True)
    yield from body.take()


class _Body:
    """Gathers blocks from the elements of a WordprocessingML part.

    `around` holds the lists that blocks go into: the body, and the cells that are open; `open` the paragraphs that are
    open (a text box stands inside a paragraph), each as its pieces and [heading level, whether it is a list item].
    """

    def __init__(self, styles: dict[str, _Style]):
        self.styles = styles
        self.around: list[list[tuple[str, str]]] = [[]]
        self.rows: list[list[list[str]]] = []
        self.open: list[tuple[list[str], list[int]]] = []
        self.skipped = self.runs = 0
        self.in_text = False

    def take(self) -> list[tuple[str, str]]:
        """The blocks of the body that are finished."""
        done, self.around[0] = self.around[0], []
        return done

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.skipped or name in LEFT_OUT or attributes.get("type") in SEPARATORS:
            self.skipped += 1
        elif name == "p":
            self.open.append(([], [0, 0]))
        elif name == "t":
            self.in_text = True
        elif name == "r":
            self.runs += 1
        elif self.open and name == "pStyle":
            style = self.styles.get(attributes.get("val", ""), _Style())
            self.open[-1][1][:] = [style.level, int(style.is_item)]
        elif self.open and name == "numId":
            self.open[-1][1][1] = int(attributes.get("val", "0") != "0")
        elif self.open and self.runs and name in LETTERS:
            self.open[-1][0].append(LETTERS[name])
        elif name == "tbl":
            self.rows.append([])
        elif name == "tr" and self.rows:
            self.rows[-1].append([])
        elif name == "tc":
            self.around.append([])

    def text(self, piece: str) -> None:
        if self.in_text and self.open and not self.skipped:
            self.open[-1][0].append(piece)

    def end(self, name: str) -> None:
        if self.skipped:
            self.skipped -= 1
        elif name == "t":
            self.in_text = False
        elif name == "r":
            self.runs -= 1
        elif name == "p" and self.open:
            self._end_paragraph()
        elif name == "tc" and len(self.around) > 1:
            cell = " ".join(" ".join(text.split()) for _, text in self.around.pop())
            if self.rows and self.rows[-1]:
                self.rows[-1][-1].append(cell)
        elif name == "tbl" and self.rows:
            lines = [" | ".join(cells) for cells in self.rows.pop() if any(cells)]
            if lines:
                self.around[-1].append(("table", "\n".join(lines)))

    def _end_paragraph(self) -> None:
        pieces, (level, is_item) = self.open.pop()
        text = "".join(pieces).strip()
        if text:
            mark = "#" * level + " " if level else "- " if is_item else ""
            self.around[-1].append(("item" if is_item and not level else "text", mark + text))
