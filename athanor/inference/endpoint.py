"""A model behind any interface that speaks OpenAI's chat completions, and labels by asking it several times.

Nothing is reached but the address that the user names. The standard library speaks HTTP here: requests are few, large
and slow, so nothing faster would be noticed.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.inference.labeller import checked_question, filled_question

AGAIN = (408, 409, 429, 500, 502, 503, 504)  # what passes, or may
PAUSES = (1.0, 4.0, 15.0)  # seconds before another try


@dataclass(frozen=True)
class Endpoint:
    """An address that answers POST {address}/chat/completions.

    Args:
        address: up to and including /v1.
        model: the name that goes into `model`.
        key_variable: the environment variable that holds the key; unset: none is sent.
        at_once: requests on their way at a time.
        seconds: how long one answer may take.
    """

    address: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    at_once: int = 8
    seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise AthanorError(f"the endpoint is {self.address!r}", allowed="http://… or https://…, up to /v1")

    def answers(self, prompts: Sequence[str], **settings: Any) -> list[str]:
        """The model's answer to each prompt, each a conversation of its own.

        Args:
            settings: fields of the request, as temperature and max_tokens; a list gives one value to each prompt.

        Raises:
            AthanorError: the endpoint refuses, does not answer in three more tries, or answers in another form.
        """
        each = [{k: v[n] if isinstance(v, list) else v for k, v in settings.items()} for n in range(len(prompts))]
        with ThreadPoolExecutor(self.at_once) as threads:
            waiting = [threads.submit(self._answer, prompt, given) for prompt, given in zip(prompts, each, strict=True)]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _answer(self, prompt: str, settings: dict[str, Any]) -> str:
        row = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **settings}
        for pause in (*PAUSES, None):
            try:
                return said(self._post(row), self.address)
            except urllib.error.HTTPError as problem:
                told = problem.read(2000).decode(errors="replace")
                if problem.code not in AGAIN or pause is None:
                    raise AthanorError(
                        f"{self.address} answers {problem.code}: {told:.300}",
                        fix=f"check the model's name and ${self.key_variable}" if problem.code < 500 else "try later",
                    ) from None
            except (urllib.error.URLError, TimeoutError, ConnectionError) as problem:
                if pause is None:
                    raise AthanorError(f"{self.address} cannot be reached: {problem}", fix="is it served?") from None
            time.sleep(pause or 0)
        raise AssertionError("the last try returns or raises")

    def _post(self, row: dict[str, Any]) -> bytes:
        key = os.environ.get(self.key_variable)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        address = f"{self.address.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(row).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.seconds) as answer:
            return bytes(answer.read())


def said(body: bytes, address: str) -> str:
    """The text of a chat completion.

    Raises:
        AthanorError: it is not one.
    """
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise AthanorError(f"{address} answers {body[:200]!r}", allowed="OpenAI's chat completions", fix="add /v1?")
    return text


class EndpointLabeller:
    """Texts to (label, confidence) by asking several times with chance: one vote of a model behind an endpoint.

    The label that comes most often, with (its count + 1) / (answers + labels) as its confidence: the mean of its chance
    after a uniform prior (Laplace). An answer that names no label, or several, counts for none. Interfaces differ in
    which probabilities they give, if any; a count is what all of them give.

    Args:
        labels: to choose from, in the order in which they are named to the model.
        question: holds {text}, and perhaps {labels}.
        asked: answers for each text.
        seed: of the first answer; each has its own.

    Attributes:
        unclear: how many answers named no label, or several.
    """

    def __init__(self, endpoint: Endpoint, labels: Sequence[str], question: str, asked: int, seed: int):
        self.endpoint, self.labels, self.question = endpoint, list(labels), checked_question(question)
        self.asked, self.seed, self.unclear = asked, seed, 0

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The label that came most often for each text, and how sure that is."""
        prompts = [filled_question(self.question, text, self.labels) for text in texts for _ in range(self.asked)]
        seeds = [self.seed + turn for _ in texts for turn in range(self.asked)]
        longest = 8 + max(len(label.encode()) for label in self.labels)  # tokens: a few words around it are allowed
        answers = self.endpoint.answers(prompts, temperature=1.0, max_tokens=longest, seed=seeds)
        return [self._vote(answers[start : start + self.asked]) for start in range(0, len(answers), self.asked)]

    def _vote(self, answers: Sequence[str]) -> tuple[str, float]:
        found = [named(answer, self.labels) for answer in answers]
        self.unclear += found.count(None)
        best = max(self.labels, key=found.count)
        return best, (found.count(best) + 1) / (len(found) + len(self.labels))


def named(answer: str, labels: Sequence[str]) -> str | None:
    """The one label that an answer names; None: none, or several. Case, blanks and punctuation do not count."""
    plain = answer.strip().strip("\"'`*.。!！:：“”「」").casefold()
    for label in labels:
        if label.casefold() == plain:
            return label
    there = [label for label in labels if label.casefold() in plain]
    whole = [label for label in there if not any(label != other and label in other for other in there)]
    return whole[0] if len(whole) == 1 else None
