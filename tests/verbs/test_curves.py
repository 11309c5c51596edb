"""`athanor curves`: of finished runs, of one that is training, in the terminal and as a page."""

import json
import shutil
from pathlib import Path

import pytest

from athanor.evaluation.curves import draw_in_terminal, draw_page, read_rows, told
from tests.conftest import athanor_here

ROWS = [
    {"step": step, "loss": None if step == 30 else 3.0 + 1.0 / (1 + step), "rate": 0.1, "norm": 1.0,
     **({"skipped": "no number"} if step == 30 else {}), **({"spike": True} if step == 50 else {}),
     **({"watched": {"heldout": 4.0 - step / 100}, "samples": ["</script><b>x"]} if step % 20 == 19 else {})}
    for step in range(100)
]  # fmt: skip


def test_the_newest_run_is_drawn_and_named(journey: tuple[Path, dict[str, dict]]) -> None:
    said = athanor_here("curves", store=journey[0]).stdout
    [model] = [
        path.parent for path in journey[0].glob("artifacts/*/artifact.json") if '"name": "pretrain"' in path.read_text()
    ]
    losses = [row["loss"] for row in read_rows(model / "metrics.jsonl")]
    assert f"pretrain: 12 steps, loss {losses[0]:.3f}" in said and "finetune: 12 steps" in said
    rows = json.loads(athanor_here("curves", "pretrain", "--json", store=journey[0]).stdout)
    assert [row["loss"] for row in rows["pretrain"]] == losses


def test_a_run_that_is_training_is_found(journey: tuple[Path, dict[str, dict]], tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name in ("artifacts", "names"):
        (store / name).mkdir(parents=True)
    work = store / "work" / "model-0123" / ".work"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"step": 100, "lo')
    assert "model-0123: 100 steps" in athanor_here("curves", store=store).stdout
    shutil.rmtree(work)
    assert "nothing was trained" in athanor_here("curves", store=store).stderr
    assert "nothing is training" in athanor_here("curves", "--live", store=store).stderr


def test_trouble_is_told() -> None:
    lines = told("run", ROWS)
    assert "heldout 3.010 (best 3.010 at step 99)" in lines[0]
    assert lines[1:] == ["  spikes at 50", "  no number at 30"]
    assert "no step has a loss" in draw_in_terminal({"run": [{"step": 0, "loss": None}]})


def test_the_best_accuracy_is_the_highest() -> None:
    figures = [(0.7, 0.4), (0.6, 0.5), (0.65, 0.45)]
    rows = [
        {"step": step, "loss": 1.0, "norm": 1.0, "rate": 0.1, "watched": {
            "heldout": loss, "heldout/accuracy": share, "heldout/most_frequent_class": 0.5,
        }}
        for step, (loss, share) in enumerate(figures)
    ]  # fmt: skip
    line = told("classify", rows)[0]
    assert "heldout 0.650 (best 0.600 at step 1)" in line and "accuracy 0.450 (best 0.500 at step 1)" in line
    assert line.endswith("most_frequent_class 0.500")


def test_the_page_holds_every_curve_and_escapes_what_a_model_wrote(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    page_file = tmp_path / "curves.html"
    page_file.write_text(draw_page({"one": ROWS, "two": ROWS[:60]}))
    assert "</script><b>" not in page_file.read_text()
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.locator("canvas").count() == 4  # loss, held-out, norm, rate; no parts here
        assert page.locator("pre").first.text_content() == "</script><b>x"
        page.click("#language")
        assert page.locator("#loss .u-title").text_content() in ("损失", "loss")
        assert problems == []
        browser.close()


@pytest.mark.parametrize(
    ("words", "said"), [(("nothing-like-it",), "names no artifacts"), (("tokenizer",), "was not trained")]
)
def test_what_has_no_curve_is_refused(words: tuple[str, ...], said: str, journey: tuple[Path, dict[str, dict]]) -> None:
    done = athanor_here("curves", *words, store=journey[0])
    assert done.returncode == 2 and said in done.stderr
