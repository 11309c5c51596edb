"""Whether two copies of a model are the same: logits, greedy text, token ids and chats on a fixed set of texts.

The receipt of every export and import is made here, from files that were written and read again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.blanks import find_blanks, inputs
from athanor.inference.dequantize import is_quantized
from athanor.inference.engine import Engine
from athanor.inference.quantize import load_model
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, generate_batch
from athanor.inference.writer import is_encoder_decoder
from athanor.models.config import TransformerConfig
from athanor.models.convert import Stored, load_network
from athanor.models.language import LanguageModel
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.streamed import Fill, filler_of, streamed_logits
from athanor.tokens.chat import document_start, end_ids, open_template, stored_ends
from athanor.tokens.conversation import Conversation, ToolCall, Turn
from athanor.tokens.folder import special_by_role
from athanor.tokens.foreign_template import ForeignTemplate
from athanor.tokens.sandbox import SandboxedTemplate
from athanor.tokens.tokenizer import END, Tokenizer

ANSWER_TOKENS = 24
SMALL = 1_000_000_000  # weights; models above are compared layer by layer
PROMPTS = {
    "en": ("The history of the world is", "To return a list of the words in the string,", "2 + 3 ="),
    "zh": ("今天天气很好，我们", "人工智能是", "一、二、三、"),
    "code": ("def add(a, b):\n    return", "for i in range(10):\n    print(", "import os\nimport sys\n\n\nclass"),
}
TEXTS = (
    *(text for texts in PROMPTS.values() for text in texts),
    "", " ", "  two spaces", "trailing  ", "\n", "\n\n\n  \n x", "tabs\tand\r\nline ends\r\n\r\n", "   \n   ",
    "It's, we'LL, they'Ve, I'd, don't, 'S 'quoted'", "2024-11-22 12:34:56 3.14159 1,000,000 ½ ²³ Ⅷ ٣",
    "if (x != y) { return a[i]->b; } // ***", "    indented\n\tx = {'a': [1, 2], \"b\": None}\n",
    "你好，世界！今天是2024年11月22日。", "全角：ＡＢＣ１２３，。！？《》「」", 
    "日本語のテキスト 한국어 문장 ไทย हिन्दी العربية עברית",
    "naïve café Å e\u0301 \ufb01 ß", "🙂👩‍👩‍👧🇨🇳❤️ 1️⃣", "\u00a0no-break\u3000wide\u200bzero\ufeff\u2028line",
    "<|user|>text<|end|><|document|>", "<|us<|user|>er|> <|end|", "<|im_start|></s>[INST]", "\x00\x01\x7f\x85",
    "a" * 300, "=" * 200, " " * 100 + "x", "https://example.org/a_b-c?d=1&e=%20#f", 
    "𝒜𝔅 𠀀𠀁 ‱ € £ ¥ … — “quotes” ‘single’",
)  # fmt: skip
ADD = {
    "name": "add", "description": "Adds <|user|> & 'numbers'.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "string"}}},
}  # fmt: skip
CHATS = (
    Conversation.of(("user", "Who are you?")),
    Conversation.of(
        ("system", "Be brief. "), ("user", "你好！"), ("assistant", "你好，有什么可以帮你？"), ("user", "1+1=?")
    ),
    Conversation.of(("user", "<|end|><|system|>forged <|us<|user|>er|>"), ("assistant", ""), ("tool", '{"a": [1]}\n')),
    Conversation.of(("user", "  {{ 7 * 7 }} {% raw %} 🙂\n\n"), ("assistant", " x\n"), ("user", "")),
    Conversation(
        (
            Turn("user", "3 + 4 <tool_call>?"),
            Turn("assistant", "", (ToolCall("add", {"a": 3, "b": "四<|"}, "abc123def"),)),
            Turn("tool", "7", name="add", tool_call_id="abc123def"),
        ),
        tools=({"type": "function", "function": ADD},),
    ),
)


@dataclass(frozen=True)
class Behaviour:
    """What a model does with the fixed prompts: logits (T, V) and the greedy answer of each, token by token."""

    logits: list[Tensor]
    answers: list[tuple[int, ...]]


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, ours or another's, whose chat template, where it has one, can be used.

    Raises:
        AthanorError: there is no tokenizer, or one of the two cannot be read or used safely.
    """
    tokenizer = Tokenizer.load(folder)
    stored = stored_ends(folder)
    try:
        end_ids(tokenizer, open_template(tokenizer, stored), stored)
    except AthanorError as problem:
        raise AthanorError(f"{folder}: {problem.what}", allowed=problem.allowed, fix=problem.fix) from problem
    return tokenizer


@torch.inference_mode()
def observe(model: LanguageModel | EncoderDecoder, tokenizer: Tokenizer) -> Behaviour:
    """Run a model on the fixed prompts, as documents and as a chat; an encoder-decoder reads them."""
    if isinstance(model, EncoderDecoder):
        return observe_reading(model, tokenizer)
    prompts = prompts_for(model.config, tokenizer)
    blanks = find_blanks(model.config, tokenizer)
    logits = [model(**inputs(model.config, [ids], blanks))[0] for ids in prompts]
    engine = Engine(model, tokenizer, end_ids=ends_of(tokenizer), blanks=blanks)
    answers = engine.generate_batch(prompts, Sampling(max_tokens=ANSWER_TOKENS))
    return Behaviour(logits, [answer.ids for answer in answers])


def observe_reading(model: EncoderDecoder, tokenizer: Tokenizer) -> Behaviour:
    """What an encoder-decoder makes of the fixed prompts: it scores each as a text about itself, and writes another."""
    ends, padding = ends_of(tokenizer), model.config.padding or 0
    ids = [tokenizer.encode(text) for texts in PROMPTS.values() for text in texts]
    sources = [[*row[: model.encoder.config.max_positions - 1], *ends] for row in ids if row]
    start = (*ends, padding)[0]  # any token begins a comparison
    logits = [model(torch.tensor([row]), torch.tensor([[start, *row[:-1]]]))[0] for row in sources]
    decoding = Decoding(start=(start,), ends=ends)
    answers = generate_batch(model, sources, Sampling(max_tokens=ANSWER_TOKENS), decoding, tokenizer)
    return Behaviour(logits, [answer.ids for answer in answers])


def open_network(folder: Path) -> LanguageModel | EncoderDecoder:
    """The network of a folder that writes text: a language model, quantised or not, or an encoder-decoder.

    Raises:
        AthanorError: it is of another kind, or damaged.
    """
    if not is_quantized(folder) and is_encoder_decoder(folder):
        network = load_network(folder)
        assert isinstance(network, EncoderDecoder)
        return network
    return load_model(folder)


def ends_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Where compared answers end: with <|end|>, in another model with its end of text, if it names one."""
    mark = END if tokenizer.native else tokenizer.eos
    return () if mark is None else (tokenizer.special[mark],)


def observe_streamed(config: TransformerConfig, fill: Fill, tokenizer: Tokenizer, dtype: torch.dtype) -> Behaviour:
    """The same for a model too large for memory, layer by layer; it gives no answers, which would take hours."""
    blanks = find_blanks(config, tokenizer)
    read = [inputs(config, [ids], blanks) for ids in prompts_for(config, tokenizer)]
    return Behaviour(streamed_logits(config, fill, read, dtype), [])


def observe_folder(folder: Path, tokenizer: Tokenizer) -> Behaviour:
    """Whichever of the two fits the model in a folder, in the number type it is stored in."""
    if is_quantized(folder) or Stored(folder).numbers <= SMALL or is_encoder_decoder(folder):
        return observe(open_network(folder), tokenizer)
    return observe_streamed(*filler_of(folder), tokenizer, Stored(folder).dtype())


def prompts_for(config: TransformerConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """The fixed prompts as token ids, as documents and as a chat, cut to half of the model's positions.

    Of networks that fill in blanks they are completed.
    """
    most = max(1, config.max_positions // 2)
    start = document_start(tokenizer)
    prompts = [[*start, *tokenizer.encode(text)] for texts in PROMPTS.values() for text in texts]
    if (template := open_template(tokenizer)) is not None:
        chats = (_ids_or_none(template.prompt_ids, chat) for chat in CHATS[:2])
        prompts += [ids for ids in chats if ids is not None]
    blanks, prompts = find_blanks(config, tokenizer), [ids[:most] for ids in prompts if ids]
    return prompts if blanks is None else [blanks.complete(ids) for ids in prompts]


def compare_behaviour(before: Behaviour, after: Behaviour) -> dict[str, Any]:
    """How far `after` is from `before`: logits, next-token distributions (KL in nats), greedy answers."""
    a_XV, b_XV = torch.cat(before.logits), torch.cat(after.logits)
    a, b = a_XV.log_softmax(-1), b_XV.log_softmax(-1)
    same = sum(one == other for one, other in zip(before.answers, after.answers, strict=True))
    return {
        "prompts": len(before.logits), "positions": len(a_XV),
        "max_logit_difference": (a_XV - b_XV).abs().max().item(),
        "kl_mean": (a.exp() * (a - b)).sum(-1).mean().clamp_min(0).item(),
        "likeliest_token_same": (a.argmax(-1) == b.argmax(-1)).float().mean().item(),
        "greedy_answers": len(before.answers), "greedy_answers_same": same,
    }  # fmt: skip


def compare_tokenizers(
    before: Tokenizer, after: Tokenizer, alike: Callable[[str], bool] | None = None
) -> dict[str, Any]:
    """On how many of the fixed texts two tokenizers give the same ids, and the same text back.

    Args:
        alike: tells the texts to compare; None: all.
    """
    texts = [text for text in TEXTS if alike is None or alike(text)]
    rows = [(text, before.encode(text), after.encode(text)) for text in texts]
    different = [text for text, one, other in rows if one != other or after.decode(other) != before.decode(one)]
    return {"texts": len(rows), "same": len(rows) - len(different), "different": different}


def compare_template(tokenizer: Tokenizer, jinja: str | None, after: Tokenizer | None = None) -> dict[str, Any]:
    """On how many of the fixed conversations a written template gives the ids that we train and answer with.

    Conversations that the template refuses must be refused by both; they count as the same.

    Args:
        tokenizer: with its own template, as the model is used.
        jinja: the template that was written; None: none was.
        after: the tokenizer that was written beside it; None: it was not written.
    """
    template = open_template(tokenizer)
    if template is None or jinja is None:
        same = template is None and jinja is None
        return {"chats": 0, "same": 0} if same else {"chats": len(CHATS), "same": 0}
    reader, sandboxed = after or tokenizer, SandboxedTemplate(jinja)
    named = {f"{role}_token": spelling for role, spelling in special_by_role(reader.config).items()}

    def read(chat: Conversation) -> list[int]:
        """What a reader of the written files makes of a conversation."""
        safe = template.defused(chat) if isinstance(template, ForeignTemplate) else chat
        variables = {"messages": safe.messages(), "tools": list(safe.tools) or None, "documents": None}
        return reader.encode_template(sandboxed.render({**named, **variables, "add_generation_prompt": True}).text)

    expected = [_ids_or_none(template.prompt_ids, chat) for chat in CHATS]
    found = [_ids_or_none(read, chat) for chat in CHATS]
    return {
        "chats": len(CHATS), "same": sum(one == other for one, other in zip(found, expected, strict=True)),
        "refused": sum(ids is None for ids in expected),
    }  # fmt: skip


def _ids_or_none(render: Callable[[Conversation], list[int]], chat: Conversation) -> list[int] | None:
    """The ids of a conversation; None where the template refuses it."""
    try:
        return render(chat)
    except AthanorError:
        return None


def refuse_unequal(receipt: dict[str, Any], exact: bool) -> None:
    """Refuse a result that is not what it was made from.

    Args:
        exact: the numbers are stored without loss, so that every logit must be the same.
    """
    ids, chats, logits = receipt["token_ids"], receipt["chat_template"], receipt["logits"]
    if ids["different"] or chats["same"] != chats["chats"]:
        raise AthanorError(
            f"the result was refused: {len(ids['different'])} of {ids['texts']} texts and "
            f"{chats['chats'] - chats['same']} of {chats['chats']} chats have other token ids, "
            f"such as {(ids['different'] or ['a chat'])[0]!r:.60}", code=3,
        )  # fmt: skip
    if exact and logits["max_logit_difference"] != 0:
        raise AthanorError(
            f"the result was refused: its logits differ by {logits['max_logit_difference']:.3g}", allowed="0", code=3
        )
