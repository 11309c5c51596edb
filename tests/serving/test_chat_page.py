"""The chat page: its words, its files, and how it behaves in a real browser."""

import re
import shutil
from pathlib import Path

import pytest

from tests.serving.tiny_server import LEARNT, SENTENCE

STATIC = Path(__file__).parents[2] / "athanor" / "serving" / "static"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def words(language):
    """The keys of one language in words.js, nested ones with their parent."""
    block = (STATIC / "words.js").read_text(encoding="utf-8").split(f"\n  {language}: {{")[1].split("\n  },")[0]
    return re.findall(r"^ {4,6}(\w+):", block, re.MULTILINE)


def test_both_languages_say_everything():
    assert words("en") == words("zh") and len(words("en")) > 40


def test_every_word_of_the_page_exists():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:text|hint|label|aria)="(\w+)"', page)) <= set(words("en"))
    script = (STATIC / "chat.js").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:\bwords|WORDS\[language\])\.(\w+)", script.replace("words.js", ""))) <= set(words("en"))


def test_the_files_name_nothing_outside_and_hold_no_inline_code():
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//cdn|@import|url\(['\"]?[^#]", text), file.name
        assert not re.search(r"\son\w+=|innerHTML|insertAdjacentHTML|document\.write|\beval\b|style=", text), file.name


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if BROWSER is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A fresh page in English; afterwards: no request left this machine, and nothing went wrong in the console."""
    context = browser.new_context(locale="en-US", permissions=["clipboard-read", "clipboard-write"])
    page, requests, problems = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    page.evaluate("localStorage.setItem('athanor.settings', JSON.stringify({temperature: '0'}))")
    page.reload()
    page.locator("#model", has_text="tiny").wait_for()
    page.problems = problems
    yield page
    assert [url for url in requests if not url.startswith(server.url)] == [] and requests
    assert problems == []
    context.close()


def last_answer(page):
    page.wait_for_selector(".message.assistant:last-child:not(.writing) .actions")
    return page.locator(".message.assistant:last-child .text").inner_text()


def test_ask_copy_why_regenerate_and_come_back(page):
    page.locator(".example", has_text="Who are you?").click()
    assert last_answer(page) == SENTENCE
    assert re.search(r"\d+ tokens · \d+ tokens/s", page.locator(".figure").inner_text())
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == SENTENCE
    page.get_by_role("button", name="Why?").click()
    page.locator(".source").wait_for()
    assert SENTENCE in page.locator(".source mark").inner_text()
    assert "notes/about.md · line 2 · seen at step 10" in page.locator(".source .place").inner_text()
    assert "That was all." in page.locator(".source blockquote").inner_text()
    page.get_by_role("button", name="Again").click()
    assert last_answer(page) == SENTENCE and page.locator(".message").count() == 2
    page.reload()
    assert last_answer(page) == SENTENCE
    page.locator("#new").click()
    assert page.locator(".message").count() == 0 and page.locator("#welcome").is_visible()


def test_the_keyboard(page):
    prompt = page.locator("#prompt")
    prompt.fill("Who are")
    prompt.press("Shift+Enter")
    assert prompt.input_value() == "Who are\n"
    composing = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true})"
    prompt.evaluate(f"node => node.dispatchEvent({composing})")
    assert page.locator(".message").count() == 0
    prompt.fill("Who are you?")
    prompt.press("Enter")
    assert last_answer(page) == SENTENCE and prompt.input_value() == ""


def test_chinese(page):
    page.locator("#language").click()
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    question, expected = LEARNT[1]
    page.locator(".example", has_text=question).click()
    assert last_answer(page) == expected
    assert "词元" in page.locator(".figure").inner_text()


def test_the_browsers_language_is_followed(browser, server):
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(server.url)
    assert page.locator("#prompt").get_attribute("placeholder") == "输入问题"
    context.close()


def hold(page):
    """Answer the next questions with a stream that begins and never ends, as a slow model would."""
    page.evaluate("""() => {
        const event = {choices: [{index: 0, delta: {content: 'One **bold** <b>plain</b> '}, finish_reason: null}]};
        window.fetch = (address, options) => {
            const body = new ReadableStream({start(controller) {
                controller.enqueue(new TextEncoder().encode('data: ' + JSON.stringify(event) + '\\n\\n'));
                options.signal.addEventListener('abort', () => controller.error(options.signal.reason));
            }});
            return Promise.resolve(new Response(body, {status: 200}));
        };
    }""")


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_stop_keeps_what_was_written(page, way):
    hold(page)
    page.locator("#prompt").fill("go on")
    page.locator("#prompt").press("Enter")
    page.locator(".writing", has_text="One bold").wait_for()
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop (Esc)").click()
    page.get_by_text("Stopped.").wait_for()
    assert page.locator(".assistant .text").inner_text().strip() == "One bold <b>plain</b>"
    assert page.locator(".assistant .text strong").inner_text() == "bold"
    assert page.locator(".assistant .text b").count() == 0


def test_text_stays_text(page):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    page.evaluate(
        "text => localStorage.setItem('athanor.messages', JSON.stringify([{role: 'user', content: text},"
        " {role: 'assistant', content: text + '\\n```html\\n' + text + '\\n```\\n**' + text + '**', finish: 'stop'}]))",
        evil,
    )
    page.reload()
    assert evil in page.locator(".message.user").inner_text() and evil in page.locator("pre").inner_text()
    assert page.locator(".messages img, .messages script").count() == 0 and page.title() == "Athanor"


def test_settings_are_sent_and_errors_say_what_to_do(page):
    page.locator("#open-settings").click()
    page.locator("[name=max_tokens]").fill("2")
    page.locator("[name=system]").fill("Be brief.")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.locator(".example", has_text="Who are you?").click()
    sent = asked.value.post_data_json
    assert sent["max_tokens"] == 2 and sent["temperature"] == 0 and "seed" not in sent
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    last_answer(page)
    page.get_by_text("longest length").wait_for()
    page.locator("#prompt").fill("word " * 500)
    page.locator("#prompt").press("Enter")
    page.get_by_role("alert").wait_for()
    assert "longer than the model can read" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("alert").get_by_role("button", name="New chat").is_visible()
    page.problems.clear()  # the browser itself reports the 400


def test_a_silent_server_is_explained(page):
    page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('Failed to fetch')); }")
    page.locator(".example", has_text="Who are you?").click()
    page.get_by_role("alert").wait_for()
    assert "does not answer" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_nothing_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 700})
    page.locator(".example", has_text="Who are you?").click()
    last_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#send", "#open-settings", "#new", "#language", "#prompt"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_every_control_has_a_name(page):
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea')].filter(node =>
        !(node.innerText.trim() || node.getAttribute('aria-label') || node.labels?.length))
        .map(node => node.outerHTML)""")
    assert nameless == []
