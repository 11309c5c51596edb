import json
import re
import tarfile
from collections import Counter

import pytest
from selectolax.lexbor import LexborHTMLParser

from athanor.data.reading.decode import Unreadable
from athanor.data.reading.html import declared_encoding, main_text, whole_text
from tests.conftest import REAL_DATA

PAGES = REAL_DATA / "web" / "trafilatura_eval.tar.gz"
ARTICLES = PAGES.with_name("readability_pages.tar.gz")
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


def page(body: str) -> str:
    return f"<html><head><title>t</title></head><body>{body}</body></html>"


PARAGRAPH = f"<p>{ARTICLE}</p>"
OTHER = "A lighthouse keeper counted ships for a year, and nobody ever asked him how many he had seen go by. " * 2


@pytest.mark.parametrize(
    "furniture",
    [
        f"<div class='relatedArticles'><p>{OTHER}</p></div>",
        f"<div id='comments'><p>{OTHER}</p><p>{OTHER}</p></div>",
        f"<ul class='author_box big'><li>{OTHER}</li></ul>",
        f"<div style='display: none'><p>{OTHER}</p></div>",
        f"<figure><figcaption>{OTHER}</figcaption></figure>",
        f"<ul>{'<li><a href=x>A lighthouse keeper counted ships</a></li>' * 4}</ul>",
        "<p>Foto: A lighthouse keeper</p>",
        "<h3>Das könnte Sie auch interessieren: A lighthouse keeper</h3>",
        "<p>Share this: a lighthouse keeper</p>",
        "<h2>A lighthouse keeper and the last heading that nothing follows</h2>",
    ],
)
def test_furniture_inside_the_article_goes(furniture):
    article = PARAGRAPH + f"<p>He saw it again. {ARTICLE}</p>"
    text = main_text(page(f"<div class='post'>{article}{furniture}</div>"))[1]
    assert "lighthouse" not in text.lower() and text.count("The river rose slowly") == 6


@pytest.mark.parametrize(
    "kept",
    [
        "<p>Author Jane Doe said that she would share this water with anybody who came by on that day.</p>",
        "<div class='has-sidebar no-comments type-ad'><p>Words that were kept for those who read.</p></div>",
        "<div class='shared-meadow'><p>Words that were kept for those who read.</p></div>",
        "<table><tr><td><a href=x>Meadow</a></td><td>It was under water from May to the end of June.</td></tr></table>",
        "<p>It stood in <a href=x>a long report of the council on the water in the meadow</a>, which all had read.</p>",
        "<pre>Share this: 1</pre>",
    ],
)
def test_text_that_only_looks_like_furniture_stays(kept):
    text = main_text(page(f"<div class='post'>{PARAGRAPH}{kept}{PARAGRAPH}</div>"))[1]
    words = re.sub("<[^>]*>", " ", kept).split()
    assert all(word in text for word in words)


def test_the_heading_and_the_lead_above_the_main_part_are_found():
    lead = "The water came at night and the lower meadow was lost before anybody in the village had woken up."
    head = f"<header><h1>The flood</h1><div class='intro'><p>{lead}</p></div><p>12 May</p></header>"
    menu = "<ul class='menu'>" + "<li><a href=x>Other words</a></li>" * 30 + "</ul>"
    text = main_text(page(f"{menu}{head}{menu}<div class='article-body'>{PARAGRAPH * 5}</div>{menu}"))[1]
    assert text.startswith(f"# The flood\n\n{lead}\n\nThe river") and "12 May" not in text and "Other" not in text


def test_names_do_not_hide_a_page_that_is_all_in_one_box():
    for begin, end in (
        ("<form id=f>", "</form>"),
        ("<aside>", "</aside>"),
        ("<div class=sidebar>", "</div>"),
        ("<nav>", ""),
    ):
        assert main_text(page(f"<p>Menu</p>{begin}{PARAGRAPH * 2}{end}"))[1].count("The river rose") == 6


def test_the_text_that_a_script_states_is_used_when_the_page_shows_none():
    stated = json.dumps({"@type": "NewsArticle", "articleBody": f"<p>He said \u201chigh\u201d.</p><p>{ARTICLE}</p>"})
    text = main_text(page(f"<script type='application/ld+json'>{stated}</script><p>Please switch on scripts.</p>"))[1]
    assert text == f"He said “high”.\n\n{ARTICLE.strip()}"
    shown = main_text(page(f"<script type='application/ld+json'>{stated}</script>{PARAGRAPH}"))[1]
    assert shown == ARTICLE.strip()


def read_real_page(archive: tarfile.TarFile, name: str) -> str:
    data = archive.extractfile(name).read()
    try:
        return main_text(data.decode(declared_encoding(data) or "utf-8", errors="replace"))[1]
    except Unreadable:
        return ""


@pytest.mark.skipif(not PAGES.is_file(), reason="the shared evaluation pages are not on this machine")
def test_main_text_of_real_pages():
    """Trafilatura's own evaluation: strings that must be in the text, and strings that must not.

    Trafilatura 2.3.1 reaches precision 0.913, recall 0.944 on these pages (benchmarks/corpus/pages.py).
    """
    found = missed = wrong = 0
    with tarfile.open(PAGES) as archive:
        for entry in json.load(archive.extractfile("evaldata.json")).values():
            flat = " ".join(read_real_page(archive, f"html/{entry['file']}").split())
            hits = sum(" ".join(words.split()) in flat for words in entry["with"])
            found, missed = found + hits, missed + len(entry["with"]) - hits
            wrong += sum(" ".join(words.split()) in flat for words in entry["without"])
    precision, recall = found / (found + wrong), found / (found + missed)
    assert precision > 0.91 and recall > 0.94


@pytest.mark.skipif(not ARTICLES.is_file(), reason="the shared evaluation pages are not on this machine")
def test_main_text_of_readability_pages():
    """Bag of words against the expected article of Mozilla's Readability; the mean F1 of trafilatura is 0.94."""
    scores = []
    with tarfile.open(ARTICLES) as archive:
        names = set(archive.getnames())
        for name in sorted(name for name in names if name.endswith("/source.html")):
            expected = LexborHTMLParser(archive.extractfile(name.replace("source", "expected")).read()).body
            words = Counter(re.findall(r"\w+", expected.text(separator=" ")))
            got = Counter(re.findall(r"\w+", read_real_page(archive, name)))
            common = (words & got).total()
            scores.append(2 * common / max(1, words.total() + got.total()))
    assert sum(scores) / len(scores) > 0.92


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 100_000 + PARAGRAPH,
        "<div></x>" * 100_000 + PARAGRAPH,
        "<ul><li>item" * 60_000,
        "".join(f"<p><font color=c{number}>word" for number in range(3_000)),
        "".join(f"<p><b id=c{number}>word</p></i>" for number in range(3_000)),
    ],
    ids=["deep", "deep with closings of nothing", "lists", "styles", "styles in closed paragraphs"],
)
def test_a_page_that_would_take_the_parser_minutes_is_refused_before(markup, monkeypatch):
    """Markup that is repaired in a time that grows with the square of what is open, or worse: 40 s for 100 kB."""
    monkeypatch.setattr("athanor.data.reading.html.LexborHTMLParser", lambda markup: pytest.fail("it was parsed"))
    for read in (main_text, whole_text):
        with pytest.raises(Unreadable, match="nested too deep"):
            read(markup)


def test_long_pages_that_are_closed_or_close_themselves_are_read():
    rows = "".join(f"<tr><td><b class=c{number}>{number}</b><td>{PARAGRAPH}" for number in range(3_000))
    items = "".join(f"<li><div><font size={number}>{PARAGRAPH}</font></div><br>" for number in range(3_000))
    words = "The river rose"
    assert whole_text(f"<table>{rows}</table><ul>{items}").count(words) == 6_000 * ARTICLE.count(words)
