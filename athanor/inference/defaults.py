"""How a model's own files say that it is to be asked: generation_config.json, or config.json in older ones.

What the file sets stands for what a user leaves unsaid. What it sets and we do not do is named, never passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.inference.beam import Beams
from athanor.inference.sampling import Sampling
from athanor.models.convert import read_object

FILE = "generation_config.json"
DRAWN = ("temperature", "top_k", "top_p", "min_p")  # mean something only where tokens are drawn (`do_sample`)
OFF = {  # settings that change answers and are not done here, and the values with which they do nothing
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": (), "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "num_beam_groups": (1,), "diversity_penalty": (0.0,),
    "penalty_alpha": (), "min_length": (0,), "min_new_tokens": (0,), "forced_eos_token_id": (), "sequence_bias": (),
    "guidance_scale": (1.0,), "exponential_decay_length_penalty": (), "encoder_repetition_penalty": (1.0,),
    "num_return_sequences": (1,), "prompt_lookup_num_tokens": (), "dola_layers": (), "top_h": (),
}  # fmt: skip


@dataclass(frozen=True)
class Defaults:
    """What a model's files say.

    Attributes:
        sampling: fields of `Sampling` with the file's values.
        beams: how to search; None: token by token.
        start: what a decoder is given first (`decoder_start_token_id`).
        forced: what every text begins with (`forced_bos_token_id`).
        ends, never, never_first: as in `seq2seq.Decoding`.
        longest: most tokens of a text with those it begins with (`max_length`).
        unread: settings that would change answers, as "name=value", and are not done.
        told: the file as it is.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    beams: Beams | None = None
    start: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    longest: int | None = None
    unread: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)

    def above(self, asked: Mapping[str, Any], **usual: Any) -> Sampling:
        """A user's settings above the file's, and those above `usual`; None stands for what was left unsaid.

        Raises:
            AthanorError: a value that is not possible, whosever it is.
        """
        named = {key: value for key, value in asked.items() if value is not None}
        return Sampling(**{**usual, **self.sampling, **named})

    def search(self, asked: int | None, sampling: Sampling) -> Beams | None:
        """How to search: with the beams that were asked for, 1 for none, else as the file says.

        Raises:
            AthanorError: tokens are to be drawn or changed as well.
        """
        beams = self.beams
        if asked is not None:
            beams = None if asked == 1 else replace(beams or Beams(count=asked), count=asked)
        if beams is not None and (sampling.stop or sampling.adjusts or not sampling.greedy):
            raise AthanorError(
                "beam search with a temperature, penalties, biases or stop strings", allowed="max_tokens alone",
                fix="leave beams out (--beams 1), or the others",
            )  # fmt: skip
        return beams

    def shown(self, asked: Mapping[str, Any]) -> str:
        """The settings that count because the file has them, for people: "temperature 0.7, top_p 0.8"."""
        told = {**self.sampling, **({} if self.beams is None else {"beams": self.beams.count})}
        rows = {key: value for key, value in told.items() if asked.get(key) is None}
        return ", ".join(f"{key} {value}" for key, value in rows.items())


def read_defaults(folder: Path) -> Defaults:
    """What the files of a model say; nothing is set where they are silent.

    Raises:
        AthanorError: a value that is none of its kind.
    """
    config = read_object(folder / "config.json")
    path = folder / FILE if (folder / FILE).is_file() else folder / "config.json"
    told = read_object(path)
    start = told.get("decoder_start_token_id", config.get("decoder_start_token_id"))
    set_ones = [name for name, off in OFF.items() if told.get(name) is not None and told[name] not in off]
    unread = [f"{name}={told[name]!r:.40}" for name in set_ones]
    try:
        beams = _beams(told, unread)
        sampling = _sampling(told)
        Sampling(**sampling)  # refused here by name, before anything is asked
    except (AthanorError, TypeError) as problem:
        raise AthanorError(f"{path}: {problem}", fix="correct the file, or remove the setting") from problem
    names = ("forced_bos_token_id", "eos_token_id", "suppress_tokens", "begin_suppress_tokens")
    rows = [_ids(path, name, told.get(name)) for name in names]
    return Defaults(
        sampling, beams, _ids(path, "decoder_start_token_id", start), *rows,
        longest=told.get("max_length"), unread=tuple(unread), told=told,
    )  # fmt: skip


def _sampling(told: Mapping[str, Any]) -> dict[str, Any]:
    names = ("repetition_penalty", *(DRAWN if told.get("do_sample") else ()))
    found = {name: told[name] for name in names if told.get(name) is not None}
    if told.get("do_sample"):
        found.setdefault("temperature", 1.0)
        if found.get("top_k") == 0:  # off
            del found["top_k"]
    if told.get("max_new_tokens") is not None:
        found["max_tokens"] = told["max_new_tokens"]
    if told.get("stop_strings"):
        stop = told["stop_strings"]
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return found


def _beams(told: Mapping[str, Any], unread: list[str]) -> Beams | None:
    """How to search, and what of it is not done."""
    count = told.get("num_beams") or 1
    if count == 1:
        return None
    if told.get("do_sample"):
        unread.append(f"num_beams={count} with do_sample")
        return None
    early = told.get("early_stopping") or False
    if early not in (True, False):
        unread.append(f"early_stopping={early!r}")
    penalty = told.get("length_penalty")
    return Beams(count=count, length_penalty=1.0 if penalty is None else penalty, early=early is True)


def _ids(path: Path, name: str, value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(index) is int for index in ids):
        raise AthanorError(f"{path}: {name} is {value!r:.80}", allowed="an id or a list of ids")
    return tuple(index for index in ids if index >= 0)  # -1 stands for none in older files
