"""`athanor chat` with models that read a text and write another: the texts of `transformers`, settings of files."""

import json
import wave
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.inference.defaults import read_defaults
from athanor.inference.listener import read_sound
from athanor.models.speech import log_mel
from athanor.tokens.tokenizer import Tokenizer
from tests.tokens import makers
from tests.verbs.conftest import Verb

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencepiece")
LINES = ("the cat sat on the mat", "你好，世界", "it's 12 dogs")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 has ties, which the two break in different ways."""
    for name in ("writer", "listener"):
        monkeypatch.setattr(f"athanor.inference.{name}.fast_dtype", lambda place: torch.float32)


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


@pytest.fixture
def whisper(tmp_path: Path) -> tuple[Path, Any, Any]:
    folder = tmp_path / "whisper"
    folder.mkdir()
    makers.whisper(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    marks = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
             for name in ("startoftranscript", "en", "zh", "transcribe", "notimestamps", "endoftext")}  # fmt: skip
    sides = {f"{side}_{part}": size for side in ("encoder", "decoder")
             for part, size in (("layers", 1), ("ffn_dim", 48), ("attention_heads", 4))}  # fmt: skip
    ends = {"eos_token_id": marks["endoftext"], "decoder_start_token_id": marks["startoftranscript"]}
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, num_mel_bins=8, max_source_positions=50, max_target_positions=24,
        pad_token_id=marks["endoftext"], bos_token_id=marks["endoftext"], **ends, **sides,
    )  # fmt: skip
    network, _ = saved(
        folder, transformers.WhisperForConditionalGeneration(config), is_multilingual=True, max_length=20, **ends,
        suppress_tokens=[5, 6], begin_suppress_tokens=[7], no_timestamps_token_id=marks["notimestamps"],
        lang_to_id={"<|en|>": marks["en"], "<|zh|>": marks["zh"]}, task_to_id={"transcribe": marks["transcribe"]},
    )  # fmt: skip
    return folder, network, tokenizer


def write_sound(path: Path, rate: int, seconds: float = 0.9, width: int = 2, channels: int = 1) -> None:
    """Two tones that swell."""
    time = torch.arange(int(rate * seconds)) / rate
    sound = (torch.sin(2764 * time) + torch.sin(7540 * time)) * time / 4
    numbers = (sound * (2 ** (8 * width - 1) - 1)).round().long() + (128 if width == 1 else 0)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(b"".join(int(one).to_bytes(width, "little", signed=width > 1) * channels for one in numbers))


def test_whisper_writes_down_a_sound_file(whisper: tuple[Path, Any, Any], verb: Verb, tmp_path: Path) -> None:
    folder, network, tokenizer = whisper
    write_sound(tmp_path / "a.wav", 16_000)
    frames = log_mel(read_sound(tmp_path / "a.wav")[None], 8, 100)
    for words, how in ((["--from", "zh"], {"language": "zh"}), (["--from", "en"], {"language": "en"}), ([], {})):
        found = verb("chat", folder, "-p", tmp_path / "a.wav", "--max-tokens", 12, *words)
        written = network.generate(frames, task="transcribe", max_new_tokens=12, **how)[0]
        assert found.strip() == tokenizer.decode(written, skip_special_tokens=True).strip(), words
        assert found.strip()
    assert "no language 'fr'" in verb("chat", folder, "--from", "fr", "-p", tmp_path / "a.wav", code=2)
    write_sound(tmp_path / "long.wav", 16_000, 1.2)
    assert "lasts 1.2 seconds" in verb("chat", folder, "-p", tmp_path / "long.wav", code=2)
    (tmp_path / "b.wav").write_bytes(b"RIFFxxxx")
    assert "cannot be read as sound" in verb("chat", folder, "-p", tmp_path / "b.wav", code=2)


@pytest.mark.parametrize(("rate", "width", "channels"), [(8_000, 1, 2), (44_100, 3, 1), (16_000, 4, 2)])
def test_sounds_of_any_rate_and_width_are_the_same_sound(
    rate: int, width: int, channels: int, tmp_path: Path
) -> None:  # fmt: skip
    write_sound(tmp_path / "a.wav", 16_000)
    write_sound(tmp_path / "b.wav", rate, width=width, channels=channels)
    one, other = read_sound(tmp_path / "a.wav"), read_sound(tmp_path / "b.wav")
    inner = slice(800, -800)  # the ends of a spectrum's sound meet
    assert len(one) == len(other)
    assert (one[inner] - other[inner]).abs().max() < (0.02 if width == 1 else 0.01)


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
