"""Servers as processes of their own: what a client meets is what a user would."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from athanor.inference.engine import Engine
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import Tokenizer
from tests.serving.running_server import RunningServer, wait_until
from tests.serving.tiny_server import MODEL

PROGRAM = Path(__file__).parent / "tiny_server.py"
ROOT = PROGRAM.parents[2]
SETTINGS = {
    "plain": {},
    "narrow": {"queue": 2, "history": "drop-oldest", "api_key": "a-key-of-sixteen-letters", "hosts": ["furnace.lan"]},
    "leaving": {"drain_seconds": 20},
}


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningServer]]:
    """Three servers: one as it comes, one narrow and locked, one to be stopped."""
    folder = tmp_path_factory.mktemp("servers")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(PROGRAM), str(folder), json.dumps(SETTINGS)]
    with subprocess.Popen(command, env=environment) as program:
        servers = {name: RunningServer(name, folder) for name in SETTINGS}
        try:
            wait_until(lambda: program.poll() is not None or all(one.started for one in servers.values()), 60)
            assert program.poll() is None, "the servers did not start"
            yield servers
        finally:
            for one in servers.values():
                if one.started and one.exit_code is None:
                    os.kill(one.process, signal.SIGKILL)
            program.terminate()


@pytest.fixture(scope="session")
def server(servers: dict[str, RunningServer]) -> RunningServer:
    """The server as it comes."""
    return servers["plain"]


@pytest.fixture(scope="session")
def narrow(servers: dict[str, RunningServer]) -> RunningServer:
    """A server with room for two answers, an API key, a known name, and a policy that drops the oldest turns."""
    return servers["narrow"]


@pytest.fixture(scope="session")
def local():
    """An application in this process, so that its engine can be looked into."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["some words"], vocabulary=270)
    config = TransformerConfig(width=32, layers=1, heads=2, hidden=64, max_positions=8192, vocabulary=270)
    engine = Engine(LanguageModel(config).initialise(seed=1), tokenizer)
    submitted = []
    submit = engine.submit

    def remember(*arguments):
        submitted.append(submit(*arguments))
        return submitted[-1]

    engine.submit = remember
    app = create_app(engine, ChatTemplate(tokenizer), model_name=MODEL, settings=ServingSettings())
    yield app, engine, submitted
    engine.close()
