"""EPUB and DOCX: packages made here part by part, bombs and locked ones among them."""

import zipfile

import pytest

OPEN_PACKAGING = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
LOCKED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><e:EncryptedData'
    ' xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:CipherData><e:CipherReference URI="{}"/></e:CipherData>'
    "</e:EncryptedData></encryption>"
)
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def write_zip(path, parts, **how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data, **how)


def epub(chapters: dict[str, str], manifest: str = "", spine: str = "", **more) -> dict[str, str]:
    item = '<item id="{0}" href="text/{0}%20x.xhtml" media-type="application/xhtml+xml"/>'
    items = "".join(map(item.format, chapters))
    refs = "".join(f'<itemref idref="{name}"/>' for name in reversed(chapters))
    book = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Book</dc:title>'
        "<dc:creator>Ann A.</dc:creator></metadata>"
        f"<manifest>{items}{manifest}</manifest><spine>{refs}{spine}</spine></package>"
    )
    parts = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "OEBPS/book.opf": book}
    return {**parts, **{f"OEBPS/text/{name} x.xhtml": text for name, text in chapters.items()}, **more}


def chapter(body: str, head: str = "<title/>") -> str:
    page = f"<head>{head}</head><body>{body}</body>"
    return f'<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml">{page}</html>'


def test_a_book_is_its_chapters_in_reading_order(folder, read_all):
    nav = '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    chapters = {
        "two": chapter("<h1>Second</h1><p>It <em>goes</em> on.</p>", "<script src='x.js'/>"),
        "one": chapter("<h1>第一章</h1><p>Short.</p><p><a id='p1'/>More &amp; more.</p>"),
    }
    cover = '<item id="cover" href="c.png" media-type="image/png"/>'
    parts = epub(chapters, nav + cover, '<itemref idref="nav"/><itemref idref="cover"/><itemref idref="gone"/>')
    write_zip(folder / "book.epub", {**parts, "OEBPS/nav.xhtml": chapter("<nav>Contents</nav>")})
    documents, aside = read_all(folder / "book.epub")
    assert aside == {}
    assert documents[0].text == "# 第一章\n\nShort.\n\nMore & more.\n\n# Second\n\nIt goes on."
    assert documents[0].meta == {"kind": "prose", "title": "A Book", "author": "Ann A."}


STYLES = (
    '<w:style w:styleId="1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:styleId="Mine"><w:name w:val="My style"/><w:basedOn w:val="H2"/></w:style>'
    '<w:style w:styleId="H2"><w:name w:val="heading 2"/></w:style>'
    '<w:style w:styleId="B"><w:name w:val="List Bullet"/><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr>'
    "</w:style>"
    '<w:style w:styleId="B2"><w:name w:val="My bullet"/><w:basedOn w:val="B"/></w:style>'
    '<w:style w:styleId="O"><w:name w:val="Outlined"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>'
)


def paragraph(*runs: str, style: str = "", numbered: bool = False) -> str:
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    properties += '<w:numPr><w:numId w:val="3"/></w:numPr>' if numbered else ""
    body = "".join(run if run.startswith("<") else f'<w:r><w:t xml:space="preserve">{run}</w:t></w:r>' for run in runs)
    return f"<w:p><w:pPr>{properties}<w:tabs><w:tab w:val='left'/></w:tabs></w:pPr>{body}</w:p>"


def docx(body: str, **more: str) -> dict[str, str]:
    relation = f'<Relationship Id="r" Target="word/document.xml" Type="{OFFICE}"/>'
    relations = f'<Relationships xmlns="{OPEN_PACKAGING}">{relation}</Relationships>'
    main = f"<?xml version='1.0' encoding='UTF-8'?><w:document {W}><w:body>{body}</w:body></w:document>"
    return {
        "_rels/.rels": relations,
        "word/document.xml": main,
        "word/styles.xml": f"<w:styles {W}>{STYLES}</w:styles>",
        **more,
    }


def test_a_docx_is_its_paragraphs_headings_lists_tables_and_notes(folder, read_all):
    table = "<w:tbl>" + "".join(
        "<w:tr>" + "".join(f"<w:tc>{paragraph(cell)}{paragraph('x')}</w:tc>" for cell in row) + "</w:tr>"
        for row in (("a", "b"), ("c", "d"))
    ) + "</w:tbl>"  # fmt: skip
    deleted = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
    moved = "<w:moveFrom><w:r><w:t>moved away</w:t></w:r></w:moveFrom>"
    shown = f"<w:txbxContent>{paragraph('In a box.')}</w:txbxContent>"
    box = f"<mc:Choice>{shown}</mc:Choice><mc:Fallback>{shown}</mc:Fallback>"
    box = f"<w:r><mc:AlternateContent {MC}>{box}</mc:AlternateContent></w:r>"
    body = (
        paragraph("标题", style="1") + paragraph("Part", style="Mine")
        + paragraph("One ", deleted, "w", moved, "ord.", box)
        + paragraph("first", numbered=True) + paragraph("second", numbered=True) + paragraph("") + table
        + paragraph("Third", style="O") + paragraph("a", style="B") + paragraph("b", style="B2")
        + paragraph("a", "<w:r><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r>")
    )  # fmt: skip
    rule = f'<w:footnote w:type="separator">{paragraph("---")}</w:footnote>'
    notes = f"<w:footnotes {W}>{rule}<w:footnote>{paragraph('A note.')}</w:footnote></w:footnotes>"
    write_zip(folder / "text.docx", docx(body, **{"word/footnotes.xml": notes}))
    documents, aside = read_all(folder / "text.docx")
    assert aside == {}
    assert documents[0].text == (
        "# 标题\n\n## Part\n\nIn a box.\n\nOne word.\n\n- first\n- second\n\na x | b x\nc x | d x\n\n"
        "### Third\n\n- a\n- b\n\na\tb\nc\n\nA note."
    )


def test_what_cannot_be_read_is_set_aside_with_its_reason(folder, read_all):
    good, book = docx(paragraph("Good.")), epub({"one": chapter("<p>Good.</p>")})
    write_zip(folder / "good.docx", good)
    write_zip(folder / "good.epub", book)
    whole = (folder / "good.docx").read_bytes()
    (folder / "cut.docx").write_bytes(whole[:-100])
    (folder / "page.docx").write_text("<html>no zip</html>")
    (folder / "old.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    damaged = bytearray(whole)
    place = whole.index(b"word/document.xml") + len("word/document.xml")
    damaged[place : place + 40] = b"\xff" * 40
    (folder / "damaged.docx").write_bytes(damaged)
    (folder / "renamed.epub").write_bytes(whole)
    write_zip(folder / "bomb.docx", {**good, "word/document.xml": BOMB + "<x>&b;</x>"})
    write_zip(folder / "half.docx", {**good, "word/document.xml": "<w:document>"})
    write_zip(folder / "blank.docx", docx(paragraph(" ")))
    write_zip(folder / "zeros.epub", {**book, "OEBPS/text/one x.xhtml": b"0" * 65_000_000})
    write_zip(folder / "locked.epub", {**book, "META-INF/encryption.xml": LOCKED.format("OEBPS/text/one%20x.xhtml")})
    write_zip(folder / "fonts.epub", {**book, "META-INF/encryption.xml": LOCKED.format("OEBPS/a.ttf")})
    flagged = bytearray((folder / "good.epub").read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag "encrypted" of every part
        place = -1
        while (place := flagged.find(mark, place + 1)) >= 0:
            flagged[place + at] |= 1
    (folder / "password.epub").write_bytes(flagged)
    documents, aside = read_all(folder)
    assert sorted(document.source for document in documents) == ["fonts.epub", "good.docx", "good.epub"]
    assert aside == {
        "cut.docx": "broken DOCX", "page.docx": "broken DOCX", "old.docx": "encrypted DOCX, or of a format before 2007",
        "damaged.docx": "broken DOCX", "renamed.epub": "broken EPUB", "bomb.docx": "XML that defines entities",
        "half.docx": "broken XML", "blank.docx": "no text in the DOCX", "zeros.epub": "EPUB unpacks to too much",
        "locked.epub": "encrypted EPUB", "password.epub": "encrypted EPUB",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mimetype", "META-INF/container.xml", "OEBPS/book.opf"])
def test_a_book_without_a_part_is_set_aside_or_read(folder, read_all, name):
    parts = epub({"one": chapter("<p>Good.</p>")})
    del parts[name]
    write_zip(folder / "book.epub", parts)
    (folder / "note.txt").write_text("A note.")
    documents, aside = read_all(folder)
    assert aside == ({} if name == "mimetype" else {"book.epub": "broken EPUB"})
    assert len(documents) == 2 - len(aside)
