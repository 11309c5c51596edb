"""The command line: starts at once, speaks two languages, and answers every mistake with what to do."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from athanor.cli import VERBS
from tests.conftest import ROOT, athanor, athanor_here, surroundings


def test_help_answers_at_once_and_imports_no_torch(tmp_path: Path) -> None:
    """Under 0.3 s (SPEC S5): the median of five starts, and not one heavy module loaded."""
    times = []
    for _ in range(5):
        clock = time.monotonic()
        athanor("--help", store=tmp_path)
        times.append(time.monotonic() - clock)
    code = "import sys; from athanor.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "pydantic", "fastapi", "tokenizers", "rich"}
    if len(os.sched_getaffinity(0)) > os.getloadavg()[0]:  # a busy machine says nothing about us
        assert statistics.median(times) < 0.3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, tmp_path: Path) -> None:
    shown = athanor_here(verb, "--help", store=tmp_path).stdout
    assert "Example:" in shown
    assert f"athanor {verb}" in shown


def test_help_is_in_chinese_where_people_read_it(tmp_path: Path) -> None:
    assert "运行配方" in athanor("--help", store=tmp_path, ATHANOR_LANGUAGE="zh").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rn", "quickstart"), "did you mean 'run'"),
        (("run", "quickstat"), "did you mean 'quickstart'"),
        (("run", "quickstart", "pretrain.learning_rat=0.1"), "learning_rate"),
        (("run", "quickstart", "pretain.steps=2"), "did you mean 'pretrain'"),
        (("run", "quickstart", "pretrain.steps=0"), "pretrain.steps=0"),
        (("run", "quickstart", "pretrain.steps=many"), "pretrain.steps='many'"),
        (("run", "quickstart", "pretrain.learning_rate=10"), "pretrain.learning_rate=10"),
        (("run", "quickstart", "nonsense"), "step.key=value"),
        (("run", "quickstart", "seed=-1"), "seed=-1"),
        (("run", "quickstart", "scale=nan0"), "did you mean 'nano'"),
        (("run", "quickstart", "data.path=/nowhere/at/all"), "/nowhere/at/all"),
        (("run", "quickstart", "--until", "tokeniser"), "did you mean 'tokenizer'"),
        (("plan", "nothing.yaml"), "nothing.yaml"),
        (("chat", "--store", "/nowhere/at/all"), "no store"),
        (("serve", "--host", "0.0.0.0"), "api_key"),
        (("serve", "--port", "99999"), "serve.port"),
        (("why", "x", "--store", "/nowhere/at/all"), "athanor run quickstart"),
        (("lineage", "no-such-artifact"), "names no artifacts"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    done = athanor_here(*words, store=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_errors_are_rows_for_machines(tmp_path: Path) -> None:
    done = athanor_here("run", "quickstart", "pretrain.stps=1", "--json", store=tmp_path)
    row = json.loads(done.stdout)
    assert row["code"] == done.returncode == 2
    assert "steps" in row["fix"]


def test_a_dry_run_prints_a_recipe_that_runs_the_same(tmp_path: Path) -> None:
    """What --dry-run prints is a recipe; its own dry run names the same artifacts."""
    first = athanor_here("run", "quickstart", "seed=7", "--dry-run", store=tmp_path).stdout
    (tmp_path / "again.yaml").write_text(first)
    second = athanor_here("run", str(tmp_path / "again.yaml"), "--dry-run", store=tmp_path).stdout
    names = [[line for line in text.splitlines() if "# →" in line] for text in (first, second)]
    assert names[0] == names[1]
    assert len(names[0]) == 11


def test_until_a_step_makes_what_it_needs_and_nothing_beside(tmp_path: Path) -> None:
    shown = athanor_here("run", "objectives", "--until", "masked", "--dry-run", "--json", store=tmp_path).stdout
    assert list(json.loads(shown)["steps"]) == ["data", "clean", "tokenizer", "pack", "masked"]


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nseed: 3\nsteps:\n  pretrain: {steps: 7}\n")
    plan = json.loads(athanor_here("run", str(tmp_path / "mine.yaml"), "--dry-run", "--json", store=tmp_path).stdout)
    assert plan["seed"] == 3
    assert plan["steps"]["pretrain"]["settings"]["steps"] == 7
    assert plan["steps"]["pretrain"]["settings"]["seed"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: quickstart\nstep: {}\n", "did you mean 'steps'"),
        ("extends: quickstart\nsteps: {pretrain: {stps: 1}}\n", "did you mean 'steps'"),
        ("extends: mine.yaml\n", "extends itself"),
        ("steps: {a: {do: pretran}}\n", "did you mean 'pretrain'"),
        ("steps: {clean: {}}\n", "needs documents"),
        ("steps: {clean: {from: {documents: data}}}\n", "not an earlier step"),
        ("steps: {data: {do: read, path: a}, data: {do: read, path: b}}\n", "given twice"),
        ("steps: [1, 2\n", "not valid YAML"),
        ("just words", "keys and values"),
        ("steps: {data: {do: read, path: !!python/object/apply:os.getcwd []}}\n", "not valid YAML"),
    ],
)
def test_a_bad_recipe_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    done = athanor_here("run", str(tmp_path / "mine.yaml"), store=tmp_path / "store")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plan_counts_before_anything_starts(tmp_path: Path) -> None:
    """nano has 2 or so million parameters, and its FLOPs are six per weight and token, plus attention."""
    cost = json.loads(athanor_here("plan", "quickstart", "--json", store=tmp_path).stdout)
    weights = cost["parameters"]
    assert 6 * weights * cost["tokens"] < cost["flops"] < 8 * weights * cost["tokens"]
    assert cost["seconds"] > 0 and cost["memory"] < 4e9
    assert not (tmp_path / "artifacts").exists()


def test_the_doctor_measures_this_machine(tmp_path: Path) -> None:
    rows = json.loads(athanor("doctor", "--json", store=tmp_path).stdout)
    assert {"machine", "memory", "torch", "speed"} <= {row["what"] for row in rows}
    assert all(row["state"] in "✓·✗" for row in rows)


def test_a_port_in_use_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = athanor("serve", "--port", str(taken.getsockname()[1]), store=tmp_path, check=False)
    assert done.returncode == 2
    assert "in use" in done.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour_on_a_terminal_unless_the_user_wants_none(no_color: str, tmp_path: Path) -> None:
    """An error on a real pseudo-terminal, with and without NO_COLOR."""
    import pty

    master, terminal = pty.openpty()
    environment = surroundings(tmp_path, NO_COLOR=no_color, TERM="xterm-256color")
    command = [sys.executable, "-m", "athanor", "run", "nothing"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=terminal, timeout=60)
    os.close(terminal)
    said = os.read(master, 10_000)
    os.close(master)
    assert done.returncode == 2
    assert (b"\x1b[" in said) == (not no_color)


def test_a_folder_that_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    """An empty folder, a binary file named .txt, a broken text: named, and no file stays in the store."""
    cases = {"empty": None, "binary": bytes(range(256)) * 100, "broken": b"\xff\xfe\x00\xd8broken"}
    for name, content in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        if content is not None:
            (folder / "notes.txt").write_bytes(content)
        done = athanor_here("run", "quickstart", f"data.path={folder}", store=tmp_path / "store")
        assert done.returncode == 2
        assert str(folder) in done.stderr and "allowed:" in done.stderr
        assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []
        assert list((tmp_path / "store" / "work").iterdir()) == []
