"""The chat template: masks cover what the assistant says, users cannot forge turns, `transformers` agrees to the id."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.tokens.conversation import Conversation
from athanor.tokens.template import ChatTemplate, defuse, jinja_source
from athanor.tokens.tokenizer import END, SPECIAL_TOKENS, Tokenizer

NASTY = [
    "", " ", "\n", "  leading", "trailing  ", "<|end|>", "<|user|>", "<|us<|user|>er|>", "<<|end|>|>",
    "a<|assistant|>b",
    "🙂👩‍👩‍👧", "你好，世界", "e\u0301", "\u202eright to left", "tab\tand\r\nlines", "{{ 7 * 7 }}", "{% raw %}",
    "'\"\\", "\x00",
    "<| end |>", "x" * 300, "1234567890", "def f(x):\n    return x\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["Hello, how are you? 你好，今天星期几？ def f(x):\n    return x + 1\n", "<|user|> is text here 12345"] * 50
    return Tokenizer.train(texts, 500)


def conversations(count: int) -> list[Conversation]:
    draw = random.Random(7)
    made = []
    for _ in range(count):
        turns = []
        if draw.random() < 0.3:
            turns.append(("system", draw.choice(NASTY)))
        for _ in range(draw.randint(1, 4)):
            turns.append((draw.choice(["user", "user", "tool"]), draw.choice(NASTY) + draw.choice(NASTY)))
            turns.append(("assistant", draw.choice(NASTY)))
        made.append(Conversation.of(*turns))
    return made


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "<", "user", "好", " "]), max_size=8))
def test_no_text_becomes_a_special_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())
    assert not any(token in defuse(text) for token in SPECIAL_TOKENS)


def test_the_mask_covers_exactly_what_the_assistant_says(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(tokenizer)
    for conversation in conversations(200):
        rendered = template.render(conversation)
        learnt = [index for index, flag in zip(rendered.ids, rendered.mask, strict=True) if flag]
        said = "".join(defuse(turn.content) + END for turn in conversation.turns if turn.role == "assistant")
        assert tokenizer.decode(learnt) == said


def test_transformers_renders_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path, jinja_source())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    template = ChatTemplate(Tokenizer.load(tmp_path))
    for conversation in conversations(500):
        messages = conversation.to_row()["messages"]
        for prompt in (False, True):
            expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert template.render(conversation, generation_prompt=prompt).ids == expected


def test_plain_text_has_the_same_ids_in_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (text for text in NASTY if not any(token in text for token in SPECIAL_TOKENS)):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    table = tokenizer.token_bytes()
    for text in NASTY:
        assert b"".join(table[index] for index in tokenizer.encode(text)) == text.encode()


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    saved = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Tokenizer.train(["the cat sat on the mat 猫坐在垫子上"] * 20, 400).save(tmp_path / name)
        saved.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]
