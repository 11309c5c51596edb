"""Labels for texts by what a model finds likeliest to answer: no sampling, so a confidence comes with every label.

    p(label | text) = p(model answers label) / sum over all labels of the same

A model with a chat template is asked; one without continues the question.
"""

from collections.abc import Sequence

import numpy as np

from athanor.base.errors import AthanorError
from athanor.inference.runtime import Runtime
from athanor.inference.score import score
from athanor.tokens.chat import completion_start
from athanor.tokens.conversation import Conversation

QUESTION = "{text}\n\nWhich of these labels fits the text above: {labels}? Answer with the label alone."
Item = tuple[list[int], int]  # ids, and from which place on they are the answer


def checked_question(question: str) -> str:
    """The question again.

    Raises:
        AthanorError: the text to label has no place in it.
    """
    if "{text}" not in question:
        raise AthanorError(f"the question is {question!r:.80}", allowed="a text with {text} in it, and {labels}")
    return question


def filled_question(question: str, about: str, choices: Sequence[str]) -> str:
    """The question about one text, which comes last: it may hold the other's sign."""
    return question.replace("{labels}", ", ".join(choices)).replace("{text}", about)


class ModelLabeller:
    """Texts to (label, confidence): one vote of a model.

    Args:
        labels: to choose from, in the order in which they are named to the model.
        question: holds {text}, and perhaps {labels}.

    Attributes:
        cut: how many texts were too long for the model and were read to where its context ends.
    """

    def __init__(self, runtime: Runtime, labels: Sequence[str], question: str = QUESTION):
        self.runtime, self.labels, self.question = runtime, list(labels), checked_question(question)
        self.context = runtime.engine.context
        self.cut = 0

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest label of each text, and its share of the likelihood of all labels."""
        items = [item for text in texts for item in self._fitting(text)]
        scores = score(self.runtime.model, items, blanks=self.runtime.engine.blanks)
        totals_NL = np.array([one.total for one in scores]).reshape(len(texts), -1)
        chances_NL = np.exp(totals_NL - totals_NL.max(axis=1, keepdims=True))
        chances_NL /= chances_NL.sum(axis=1, keepdims=True)
        best_N = chances_NL.argmax(axis=1)
        return [(self.labels[best], float(row[best])) for best, row in zip(best_N, chances_NL, strict=True)]

    def _fitting(self, text: str) -> list[Item]:
        """The text with each label as its answer; a text that is too long loses its end.

        Raises:
            AthanorError: not even the question without a text fits.
        """
        items = self._items(text)
        if self._longest(items) <= self.context:
            return items
        ids = self.runtime.tokenizer.encode(text)
        self.cut += 1
        while ids:
            surplus = self._longest(items) - self.context
            if surplus <= 0:
                return items
            ids = ids[: -max(surplus, 1)]
            items = self._items(self.runtime.tokenizer.decode(ids))
        raise AthanorError(f"the question takes {self._longest(items)} tokens", allowed=f"{self.context}: the context")

    @staticmethod
    def _longest(items: Sequence[Item]) -> int:
        return max(len(ids) for ids, _ in items)

    def _items(self, text: str) -> list[Item]:
        asked = filled_question(self.question, text, self.labels)
        template, tokenizer = self.runtime.template, self.runtime.tokenizer
        if template is None:
            start = [*completion_start(tokenizer), *tokenizer.encode(asked)]
            return [([*start, *tokenizer.encode(f" {label}\n")], len(start)) for label in self.labels]
        told = [Conversation.of(("user", asked), ("assistant", label)) for label in self.labels]
        rendered = template.render_all(told)
        return [(list(one.ids), one.mask.index(True)) for one in rendered]
