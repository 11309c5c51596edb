"""Runs pytest again and again, each time in a fork that has what is slow to import, and not yet the package.

Started by `test_mutations.py` in the copy it breaks. A line of standard input is a JSON list: where output goes, then
pytest's arguments; the answer, a line of standard output, is the exit code (negative: the signal that ended it).
"""

import json
import os
import signal
import sys

import hypothesis  # noqa: F401
import peft  # noqa: F401
import pytest
import torch
import transformers

LONGEST = 600  # seconds, after which a run is ended

transformers.LlamaForCausalLM, transformers.ViTModel, transformers.T5Model  # noqa: B018  # imported when asked for
torch.ones(2, 2) @ torch.ones(2, 2)


def run(output: str, arguments: list[str]) -> None:
    """In the fork: run pytest, and end with its exit code."""
    signal.alarm(LONGEST)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(code)


for line in sys.stdin:
    assert "athanor" not in sys.modules
    output, *arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        run(output, arguments)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
