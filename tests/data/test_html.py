import json
import tarfile
from pathlib import Path

import pytest

from athanor.data.decode import Unreadable
from athanor.data.html import declared_encoding, main_text

PAGES = Path(__file__).parents[2].parent / "shared" / "data" / "web" / "trafilatura_eval.tar.gz"
ARTICLE = "The river rose slowly during the night, and by the morning the lower meadow was under water. " * 3
PAGE = f"""<!doctype html><html><head><title> The  flood </title><meta charset="gbk"><style>p {{}}</style></head><body>
<header><div class="site-menu"><a href="/">Home</a> <a href="/news">News</a></div></header>
<nav>Navigation words</nav>
<article><h1>The flood</h1><p>{ARTICLE}</p><p>He said <a href="x">that</a> it was <b>high</b>.<br>Then he left.</p>
<ul><li>first point of the list</li><li>second point of the list</li></ul>
<pre>def f():
    return 1</pre>
<script>track()</script><form><input value="search words"></form></article>
<aside>Related stories</aside><div class="comments"><p>Comment words that nobody asked for, but there.</p></div>
<footer>Copyright words</footer></body></html>"""


def test_the_article_stays_and_the_furniture_goes():
    title, text = main_text(PAGE)
    assert title == "The flood"
    assert text == (
        f"# The flood\n\n{ARTICLE.strip()}\n\nHe said that it was high. Then he left.\n\n"
        "- first point of the list\n- second point of the list\n\ndef f():\n    return 1"
    )


def test_the_declared_encoding_is_found():
    assert declared_encoding(PAGE.encode()) == "gb18030"
    assert declared_encoding(b"<meta http-equiv=Content-Type content='text/html; charset=ISO-8859-1'>") == "cp1252"
    assert declared_encoding(b"\xef\xbb\xbf<meta charset=gbk>") == "utf-8-sig"
    assert declared_encoding(b"<p>nothing</p>") is None
    assert declared_encoding(b"<meta charset=no-such-thing>") is None


@pytest.mark.parametrize("page", ["", "<html></html>", "<nav>only a menu</nav>", "<script>alert(1)</script>", "\0\0"])
def test_a_page_without_text_says_so(page):
    with pytest.raises(Unreadable, match="no text in the page"):
        main_text(page)


def test_deep_and_broken_markup_is_survived_quickly():
    import time

    begin = time.process_time()
    assert "word" in main_text("<div>" * 5_000 + "word " * 50)[1]
    assert "word" in main_text("<p>word" * 20_000)[1]
    main_text("<table><tr><td>" * 3_000 + "x")
    assert time.process_time() - begin < 10


@pytest.mark.skipif(not PAGES.is_file(), reason="the shared evaluation pages are not on this machine")
def test_main_text_of_real_pages():
    """Trafilatura's own evaluation: strings that must be in the text, and strings that must not."""
    found = missed = wrong = 0
    with tarfile.open(PAGES) as archive:
        names = set(archive.getnames())
        table = json.load(archive.extractfile("evaldata.json"))
        for entry in list(table.values() if isinstance(table, dict) else table)[::5]:
            if f"html/{entry['file']}" not in names:
                continue
            data = archive.extractfile(f"html/{entry['file']}").read()
            try:
                text = main_text(data.decode(declared_encoding(data) or "utf-8", errors="replace"))[1]
            except Unreadable:
                text = ""
            flat = " ".join(text.split())
            hits = sum(" ".join(words.split()) in flat for words in entry["with"])
            found, missed = found + hits, missed + len(entry["with"]) - hits
            wrong += sum(" ".join(words.split()) in flat for words in entry["without"])
    precision, recall = found / (found + wrong), found / (found + missed)
    assert 2 * precision * recall / (precision + recall) > 0.85
