"""Documents of word processors (DOCX, ISO/IEC 29500): paragraphs, headings, lists, tables and notes as text.

Text that was deleted or moved away under tracked changes is left out; running headers and footers too.
"""

import posixpath
import re
from collections.abc import Iterator

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import ReadLimits, SetAside, documents_of
from athanor.data.reading.packages import Package, XmlReader, elements
from athanor.data.reading.sources import SourceFile

RELATIONS, USUAL = "_rels/.rels", "word/document.xml"
HEADING = re.compile(r"(?:heading|标题) ?([1-6])", re.IGNORECASE)
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
    levels = _heading_levels(package, posixpath.join(folder, "styles.xml"))
    before: str | None = None
    for part in (main, *(posixpath.join(folder, name) for name in ("footnotes.xml", "endnotes.xml"))):
        if part != main and part not in package.names:
            continue
        for kind, text in _blocks(package, part, levels):
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


def _heading_levels(package: Package, part: str) -> dict[str, int]:
    """Level of every style that is a heading or based on one: 1 is the highest."""
    if part not in package.names:
        return {}
    names: dict[str, str] = {}
    based: dict[str, str] = {}
    style = ""
    for name, attributes, _ in elements(part, package.read(part)):
        if name == "style":
            style = attributes.get("styleId", "")
        elif name == "name" and style:
            names.setdefault(style, attributes.get("val", ""))
        elif name == "basedOn":
            based[style] = attributes.get("val", "")
    levels = {}
    for style in names:
        ancestor, steps = style, 0
        while ancestor in names and steps < 10:
            match = HEADING.fullmatch(names[ancestor])
            if match or names[ancestor].lower() == "title":
                levels[style] = int(match.group(1)) if match else 1
                break
            ancestor, steps = based.get(ancestor, ""), steps + 1
    return levels


def _blocks(package: Package, part: str, levels: dict[str, int]) -> Iterator[tuple[str, str]]:
    """("text", "item" or "table", text) of the blocks of a part, as they are read."""
    body = _Body(levels)
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

    def __init__(self, levels: dict[str, int]):
        self.levels = levels
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
            self.open[-1][1][0] = self.levels.get(attributes.get("val", ""), 0)
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
