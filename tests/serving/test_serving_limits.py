"""What happens when the server is full, told to stop, left by its client, or asked by someone without the key."""

import asyncio
import os
import signal
import socket
import threading

import httpx
import pytest
import uvicorn

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.serving import protocol
from athanor.serving.app import create_app
from athanor.serving.run import check_port, serve
from athanor.serving.settings import ServingSettings, check_exposure, is_loopback
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import Tokenizer
from tests.serving.running_server import DirectClient, wait_until, web
from tests.serving.tiny_server import CONTEXT, MODEL

KEY = {"authorization": "Bearer a-key-of-sixteen-letters"}
WHO = [{"role": "user", "content": "Who are you?"}]
GOOD = {"model": MODEL, "messages": WHO, "temperature": 0, "max_tokens": 60}
ENDLESS = {"model": MODEL, "messages": WHO, "stream": True, "max_tokens": 340, "logit_bias": {"0": -100, "1": -100}}


# ---- the queue


def test_a_full_server_says_when_to_come_back(local):
    _, engine, _ = local
    template = ChatTemplate(Tokenizer.train(["some words"], vocabulary=270))
    app = create_app(engine, template, model_name=MODEL, settings=ServingSettings(queue=2))

    async def fill_then_ask():
        first = DirectClient(app, {"model": MODEL, "messages": WHO, "stream": True, "n": 2})
        running = asyncio.create_task(first.run())
        while len(first.sent) < 4:
            await asyncio.sleep(0.01)
        refused = DirectClient(app, GOOD)
        await refused.run()
        first.gone.set()
        await running
        later = DirectClient(app, {**GOOD, "max_tokens": 1})
        await later.run()
        return refused, later

    refused, later = asyncio.run(fill_then_ask())
    assert refused.status == 429 and int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert later.status == 200


def test_what_can_never_fit_is_refused_at_once(narrow):
    answer = web.post(f"{narrow.url}v1/chat/completions", json={**GOOD, "n": 3}, headers=KEY)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "n"


# ---- key and names


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic a-key-of-sixteen-letters"},
                {"authorization": b"Bearer \xff\xfe"}, {"authorization": "a-key-of-sixteen-letters"}],
)  # fmt: skip
def test_without_the_key_nothing_of_value_is_said(narrow, headers):
    paths = {"v1/models": "GET", "v1/chat/completions": "POST", "why": "POST", "openapi.json": "GET"}
    for path, method in paths.items():
        answer = web.request(method, f"{narrow.url}{path}", headers={**headers, "content-type": "application/json"})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_with_the_key_or_on_the_page_it_works(narrow):
    assert web.get(f"{narrow.url}v1/models", headers=KEY).status_code == 200
    for path in ("", "health", "favicon.svg", "static/chat.js"):
        assert web.get(f"{narrow.url}{path}").status_code == 200
    assert web.get(f"{narrow.url}page.json").json()["key_required"] is True


def test_a_named_host_is_known(narrow):
    assert web.get(f"{narrow.url}health", headers={"host": "Furnace.lan:80"}).status_code == 200
    assert web.get(f"{narrow.url}health", headers={"host": "furnace.lan.evil"}).status_code == 403


def test_other_machines_need_a_key():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(AthanorError, match="no api_key"):
            check_exposure(ServingSettings(host=host))
        check_exposure(ServingSettings(host=host, api_key="sixteen letters!"))
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        check_exposure(ServingSettings(host=host))


def test_the_key_is_not_printed():
    assert "sixteen letters!" not in repr(ServingSettings(api_key="sixteen letters!"))


# ---- long conversations


def conversation(rounds):
    turns = [{"role": "system", "content": "Be brief."}]
    for number in range(rounds):
        turns.append({"role": "user", "content": f"Question {number}?"})
        turns.append({"role": "assistant", "content": f"Answer {number}."})
    return [*turns, *WHO]


def test_the_oldest_turns_go_when_the_setting_says_so(narrow):
    address = f"{narrow.url}v1/chat/completions"
    short = web.post(address, json={**GOOD, "messages": conversation(2)}, headers=KEY)
    assert short.status_code == 200 and "x-athanor-dropped-turns" not in short.headers
    long = web.post(address, json={**GOOD, "messages": conversation(40)}, headers=KEY)
    dropped = int(long.headers["x-athanor-dropped-turns"])
    assert long.status_code == 200 and 0 < dropped < 80 and dropped % 2 == 0
    kept = conversation(40)
    same = web.post(address, json={**GOOD, "messages": [kept[0], *kept[1 + dropped :]]}, headers=KEY)
    assert same.json()["usage"] == long.json()["usage"]
    assert same.json()["choices"] == long.json()["choices"] and "x-athanor-dropped-turns" not in same.headers
    one_more = [kept[0], *kept[1 + dropped - 2 :]]  # as few as possible were left out
    assert "x-athanor-dropped-turns" in web.post(address, json={**GOOD, "messages": one_more}, headers=KEY).headers


def test_a_last_question_too_long_is_refused_in_any_case(narrow, server):
    long = [{"role": "user", "content": "word " * CONTEXT}]
    for place, headers in ((narrow, KEY), (server, {})):
        answer = web.post(f"{place.url}v1/chat/completions", json={**GOOD, "messages": long}, headers=headers)
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_without_the_setting_a_long_conversation_is_refused(server):
    answer = web.post(f"{server.url}v1/chat/completions", json={**GOOD, "messages": conversation(40)})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


# ---- the client leaves


def leave_early(app, request, pieces):
    """Send one request straight to the application and leave after so many pieces of the answer, or soon."""

    async def talk():
        client = DirectClient(app, request, pieces)
        if not pieces:
            asyncio.get_running_loop().call_later(0.3, client.gone.set)
        await client.run()
        return client.sent

    return asyncio.run(talk())


@pytest.mark.parametrize(("stream", "pieces"), [(True, 4), (False, 0)])
def test_generation_ends_when_the_client_leaves(local, stream, pieces):
    app, engine, submitted = local
    submitted.clear()
    sent = leave_early(app, {"model": MODEL, "messages": WHO, "n": 2, "stream": stream}, pieces)
    assert len(submitted) == 2
    for generation in submitted:
        completion = generation.result(timeout=5)
        assert completion.finish_reason == "cancelled" and completion.completion_tokens < 4000
    assert bool(sent) is stream and engine.load == {"running": 0, "waiting": 0}


def test_a_dead_engine_is_unhealthy():
    tokenizer = Tokenizer.train(["some words"], vocabulary=270)
    config = TransformerConfig(width=32, layers=1, heads=2, hidden=64, max_positions=64, vocabulary=270)
    engine = Engine(LanguageModel(config).initialise(seed=1), tokenizer)
    app = create_app(engine, ChatTemplate(tokenizer), model_name=MODEL, settings=ServingSettings())

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            before = (await client.get("/health")).status_code
            engine.close()
            health = await client.get("/health")
            answer = await client.post("/v1/chat/completions", json={**GOOD, "max_tokens": 5})
            return before, health, answer, await client.post("/why", json={"text": "x"})

    before, health, answer, why = asyncio.run(ask())
    assert before == 200 and health.status_code == answer.status_code == 503
    assert answer.json()["error"]["code"] == health.json()["error"]["code"] == "engine_stopped"
    assert why.json()["error"]["code"] == "no_document_index"


# ---- stopping, and starting where one cannot


def test_sigterm_lets_running_answers_finish(servers):
    server = servers["leaving"]
    with web.stream("POST", f"{server.url}v1/chat/completions", json=ENDLESS, timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(server.process, signal.SIGTERM)
        wait_until(lambda: not accepts(server.port))
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert sum('"content":' in line for line in rest) > 50
    wait_until(lambda: server.exit_code is not None)
    assert server.exit_code == 0 and server.log == ""


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_in_use_is_said_before_anything_is_loaded(server):
    for call in (lambda: check_port("127.0.0.1", server.port), lambda: serve(None, "127.0.0.1", server.port)):
        with pytest.raises(AthanorError) as caught:
            call()
        assert caught.value.code == 2 and f"port {server.port}" in caught.value.what and "in use" in caught.value.what
        assert caught.value.allowed and caught.value.fix
    check_port("127.0.0.1", 0)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "x" * 300])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(AthanorError) as caught:
        check_port(host, 8000)
    assert "127.0.0.1" in caught.value.allowed


def test_a_client_who_never_finishes_is_cut_off(monkeypatch):
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=protocol.PatientProtocol, lifespan="off", log_config=None, log_level="critical")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: running.started)
    try:
        good = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"

        def is_cut_off(unfinished):
            with socket.create_connection(listener.getsockname(), timeout=5) as connection:
                connection.sendall(unfinished)
                return connection.recv(1000).startswith(b"HTTP/1.1 408")

        assert is_cut_off(b"") and is_cut_off(b"POST / HT") and is_cut_off(good[:-1])
        with socket.create_connection(listener.getsockname(), timeout=5) as connection:
            for _ in range(3):  # one who finishes may stay and ask again later
                connection.sendall(good)
                assert connection.recv(1000).startswith(b"HTTP/1.1 200")
                assert is_cut_off(b""), "as long as that it has been quiet, and it is still there"
    finally:
        running.should_exit = True
        thread.join()
