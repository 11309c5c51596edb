"""Which template a tokenizer is used with, and where generation stops."""

from pathlib import Path

import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import write_json
from athanor.tokens import chat
from athanor.tokens.conversation import Conversation
from athanor.tokens.extend import extend
from athanor.tokens.foreign_template import ForeignTemplate
from athanor.tokens.template import ChatTemplate, jinja_source
from athanor.tokens.tokenizer import DOCUMENT, END, SPECIAL_TOKENS, Tokenizer
from tests.tokens import makers

TALK = Conversation.of(("user", "hello"))
PLAIN = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.train(["some words of ours"], 280)


def foreign(folder: Path, template: str | None, **config: object) -> Tokenizer:
    """GPT-2's, with a template."""
    makers.gpt2(folder)
    core = Tokenizer.load(folder).core
    return Tokenizer(core, {"tokenizer_class": "GPT2Tokenizer", **config}, template)


def test_ours_is_used_with_our_tokens_and_its_own_wherever_there_is_another(ours: Tokenizer, tmp_path: Path) -> None:
    assert isinstance(chat.open_template(ours), ChatTemplate)
    same = Tokenizer(ours.core, ours.config, jinja_source())
    assert isinstance(chat.open_template(same), ChatTemplate) and chat.jinja_of(same) == jinja_source()
    other = Tokenizer(ours.core, ours.config, PLAIN)
    template = chat.open_template(other)
    assert isinstance(template, ForeignTemplate) and chat.jinja_of(other) == PLAIN
    assert ours.decode(template.prompt_ids(TALK)) == "user: hello\n"
    assert chat.open_template(foreign(tmp_path, None)) is None and chat.jinja_of(foreign(tmp_path, None)) is None
    with pytest.raises(AthanorError, match="no chat template"):
        chat.require_template(None)


def test_another_tokenizer_with_our_special_tokens_is_taught_our_template(tmp_path: Path) -> None:
    larger, _ = extend(foreign(tmp_path, None, eos_token="<|endoftext|>"), special=SPECIAL_TOKENS)
    assert isinstance(chat.open_template(larger), ChatTemplate) and not chat.trained_here(larger)
    assert chat.document_start(larger) == [larger.special[DOCUMENT]]
    assert chat.special_ids(larger)["eos_token_id"] == larger.special[END]
    chat.check_vocabulary(larger, larger.vocabulary + 9, "here")  # its embedding may be padded
    with pytest.raises(AthanorError, match="token ids, the model"):
        chat.check_vocabulary(larger, larger.vocabulary - 1, "here")


def test_ours_must_have_as_many_ids_as_the_model(ours: Tokenizer) -> None:
    assert chat.trained_here(ours)
    chat.check_vocabulary(ours, ours.vocabulary, "here")
    for size in (ours.vocabulary - 1, ours.vocabulary + 1, None):
        with pytest.raises(AthanorError, match="token ids, the model"):
            chat.check_vocabulary(ours, size, "here")


def test_generation_stops_where_tokenizer_template_and_folder_say(ours: Tokenizer, tmp_path: Path) -> None:
    assert chat.end_ids(ours, chat.open_template(ours), (5,)) == (ours.special[END], 5)
    named = foreign(tmp_path, PLAIN, eos_token="<|endoftext|>")
    end = named.special["<|endoftext|>"]
    assert chat.end_ids(named, chat.open_template(named), (7, end)) == (end, 7)
    assert chat.end_ids(named, None) == (end,)
    with pytest.raises(AthanorError, match="ends no turn") as caught:
        nameless = foreign(tmp_path, PLAIN)
        chat.end_ids(nameless, chat.open_template(nameless))
    assert "generation_config.json" in caught.value.fix


@pytest.mark.parametrize(("value", "ids"), [(2, (2,)), ([2, 3], (2, 3)), (None, ()), ([], ())])
def test_stored_ends_are_one_id_or_several(value: object, ids: tuple[int, ...], tmp_path: Path) -> None:
    assert chat.stored_ends(tmp_path) == ()
    write_json(tmp_path / "config.json", {"eos_token_id": value})
    assert chat.stored_ends(tmp_path) == ids
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 9})
    assert chat.stored_ends(tmp_path) == (9,)


@pytest.mark.parametrize("value", ["2", [2, "3"], True, {"a": 1}])
def test_stored_ends_that_are_no_ids_are_refused(value: object, tmp_path: Path) -> None:
    write_json(tmp_path / "generation_config.json", {"eos_token_id": value})
    with pytest.raises(AthanorError, match="eos_token_id"):
        chat.stored_ends(tmp_path)


def test_what_generation_config_says_is_kept_or_made(ours: Tokenizer, tmp_path: Path) -> None:
    end = ours.special[END]
    made = {"bos_token_id": ours.special[DOCUMENT], "eos_token_id": end, "pad_token_id": end}
    assert chat.generation_of(tmp_path, ours) == made
    named = foreign(tmp_path, None, eos_token="<|endoftext|>")
    index = named.special["<|endoftext|>"]
    write_json(tmp_path / "config.json", {"eos_token_id": [index, 3], "bos_token_id": None})
    assert chat.generation_of(tmp_path, named) == {"eos_token_id": [index, 3]}
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 3, "temperature": 0.7})
    assert chat.generation_of(tmp_path, named) == {"eos_token_id": 3, "temperature": 0.7}


def test_how_long_a_token_can_be_is_known_where_text_is_not_changed(ours: Tokenizer, tmp_path: Path) -> None:
    for name, known in (("gpt2", True), ("qwen", False), ("bert", False), ("llama3", True)):
        (tmp_path / name).mkdir()
        makers.MAKERS[name](tmp_path / name)
        tokenizer = Tokenizer.load(tmp_path / name)
        found = chat.bytes_per_token(tokenizer, tokenizer.token_bytes())
        assert (found is not None) == known, name
    assert chat.bytes_per_token(ours, ours.token_bytes()) == max(map(len, ours.token_bytes()))
