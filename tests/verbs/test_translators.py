"""`athanor chat` with models that read a text and write another: the texts of `transformers`, settings of files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.inference.defaults import read_defaults
from athanor.tokens.tokenizer import Tokenizer
from tests.tokens import makers
from tests.verbs.conftest import Verb

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")
LINES = ("the cat sat on the mat", "你好，世界", "it's 12 dogs")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 has ties, which the two break in different ways."""
    monkeypatch.setattr("athanor.inference.writer.fast_dtype", lambda place: torch.float32)


def saved(folder: Path, network: Any, **generation: Any) -> tuple[Any, Any]:
    """A random network whose texts change from token to token, in a folder with its tokenizer's older files."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.5 if weight.dim() > 1 else 0.2))
    for name, value in generation.items():
        setattr(network.generation_config, name, value)
    network.eval().save_pretrained(folder)
    return network, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def t5(tmp_path: Path) -> tuple[Path, Any, Any]:
    folder = tmp_path / "t5"
    folder.mkdir()
    makers.t5(folder)
    sizes = dict(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=Tokenizer.load(folder).vocabulary)
    config = transformers.T5Config(decoder_start_token_id=0, eos_token_id=[1, 9, 30, 31], **sizes)
    return folder, *saved(folder, transformers.T5ForConditionalGeneration(config), max_new_tokens=9)


@pytest.fixture
def m2m100(tmp_path: Path) -> tuple[Path, Any, Any]:
    folder = tmp_path / "m2m100"
    folder.mkdir()
    makers.m2m100(folder)
    sides = {f"{side}_{part}": size for side in ("encoder", "decoder")
             for part, size in (("layers", 1), ("ffn_dim", 48), ("attention_heads", 4))}  # fmt: skip
    config = transformers.M2M100Config(
        vocab_size=742, d_model=32, max_position_embeddings=40, decoder_start_token_id=2, **sides
    )
    network = transformers.M2M100ForConditionalGeneration(config)
    return folder, *saved(folder, network, num_beams=3, max_length=14, length_penalty=0.5)


def theirs(network: Any, tokenizer: Any, line: str, **how: Any) -> str:
    written = network.generate(**tokenizer(line, return_tensors="pt"), **how)[0]
    prompt = 1 + ("forced_bos_token_id" in how)
    return tokenizer.decode(written[prompt:], skip_special_tokens=True)


def test_t5_writes_what_transformers_writes(t5: tuple[Path, Any, Any], verb: Verb) -> None:
    folder, network, tokenizer = t5
    asked = [word for line in LINES for word in ("-p", line)]
    for words, how in (([], {}), (["--beams", 4], {"num_beams": 4}), (["--max-tokens", 3], {"max_new_tokens": 3}),
                       (["--repetition-penalty", 1.5], {"repetition_penalty": 1.5})):  # fmt: skip
        found = verb("chat", folder, *asked, *words)
        assert found.splitlines() == [theirs(network, tokenizer, line, **how) for line in LINES], words
    assert len({theirs(network, tokenizer, line) for line in LINES}) > 1
    assert "no tokens of languages" in verb("chat", folder, "--to", "fr", "-p", "a", code=2)
    assert "--system" in verb("chat", folder, "--system", "x", "-p", "a", code=2)


def test_m2m100_is_told_the_languages_and_searches_as_its_files_say(
    m2m100: tuple[Path, Any, Any], verb: Verb
) -> None:  # fmt: skip
    folder, network, tokenizer = m2m100
    for line in LINES:
        for source, target, words, how in (
            ("en", "fr", [], {}), ("zh", "en", ["--beams", 1], {"num_beams": 1, "length_penalty": 1.0}),
        ):  # fmt: skip
            tokenizer.src_lang = source
            forced = tokenizer.get_lang_id(target)
            found = verb("chat", folder, "--from", source, "--to", target, "-p", line, "--json", *words)
            expected = theirs(network, tokenizer, line, forced_bos_token_id=forced, **how)
            assert json.loads(found)["answer"] == expected.strip()
    assert "--to CODE" in verb("chat", folder, "-p", "a", code=2)
    assert "no language 'xx'" in verb("chat", folder, "--to", "xx", "-p", "a", code=2)


def test_a_translator_is_imported_and_leaves_again(
    m2m100: tuple[Path, Any, Any], verb: Verb, tmp_path: Path
) -> None:  # fmt: skip
    folder, network, tokenizer = m2m100
    made = json.loads(verb("import", folder, "--json"))
    assert made["measurements"]["parameters"] == sum(weight.numel() for weight in network.parameters())
    ask = ("--from", "en", "--to", "fr", "-p", LINES[0])
    said = verb("chat", made["artifact"], *ask)
    assert said == verb("chat", folder, *ask)
    assert "same greedy answers 9/9" in verb("export", made["artifact"], "--to", "hf", "--out", tmp_path / "out")
    assert verb("chat", tmp_path / "out", *ask) == said
    theirs_again = transformers.M2M100ForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert theirs_again.generation_config.num_beams == 3
    tokenizer.src_lang = "en"
    assert theirs(theirs_again, tokenizer, LINES[0], forced_bos_token_id=tokenizer.get_lang_id("fr")) == said.strip()


def test_settings_of_the_file_stand_below_the_users(t5: tuple[Path, Any, Any]) -> None:
    folder = t5[0]

    def told(**rows: Any) -> Any:
        makers.write(folder, "generation_config.json", rows)
        return read_defaults(folder)

    drawn = told(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05, max_new_tokens=64)
    sampling = drawn.above({"temperature": None, "top_p": 0.9})
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 20)
    assert (sampling.repetition_penalty, sampling.max_tokens) == (1.05, 64)
    assert drawn.shown({"top_p": 0.9}) == "repetition_penalty 1.05, temperature 0.7, top_k 20, max_tokens 64"
    greedy = told(do_sample=False, temperature=0.7, num_beams=4, early_stopping=True, forced_bos_token_id=8)
    assert greedy.above({}).greedy and greedy.beams.count == 4 and greedy.beams.early and greedy.forced == (8,)
    refused = told(no_repeat_ngram_size=3, early_stopping="never", num_beams=2, min_length=0)
    assert refused.unread == ("no_repeat_ngram_size=3", "early_stopping='never'")
    for rows, said in (({"do_sample": True, "top_p": 7}, "top_p=7"), ({"eos_token_id": "x"}, "eos_token_id")):
        with pytest.raises(Exception, match=said):
            told(**rows)
