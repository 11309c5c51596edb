"""Tiny tokenizers of the published kinds, trained here, written as the files their models come with."""

import base64
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from athanor.tokens import pipelines
from athanor.tokens.letters import bytes_of
from athanor.tokens.sentencepiece import SentencePieceModel
from athanor.tokens.tokenizer import Tokenizer
from tests.tokens.samples import LEARN

LARGER: dict[str, Any] = {}  # options of SentencePiece's trainer above those of each maker
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), "utf-8")


def byte_level(pre: pre_tokenizers.PreTokenizer, size: int, special: list[str], end: str = "") -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE(**({"end_of_word_suffix": end} if end else {})))
    core.pre_tokenizer = pre
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(LEARN, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=ALPHABET, show_progress=False,
        **({"end_of_word_suffix": end} if end else {}),
    ))  # fmt: skip
    return core


def write_merges(core: tokenizers.Tokenizer, folder: Path, move: dict[str, int] | None = None) -> None:
    model = json.loads(core.to_str())["model"]
    write(folder, "vocab.json", model["vocab"] | (move or {}))
    write(folder, "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))


def gpt2(folder: Path) -> None:
    """vocab.json and merges.txt, <|endoftext|> last."""
    core = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 600, [])
    write_merges(core, folder, {"<|endoftext|>": core.get_vocab_size()})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024})


def roberta(folder: Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    core = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 600, special)
    write_merges(core, folder)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer"})


def clip(folder: Path) -> None:
    """Lower case and </w>: the alphabet stands in the vocabulary twice."""
    core = byte_level(
        pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(pipelines.CLIP), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]), 900, [], "</w>",
    )  # fmt: skip
    model = json.loads(core.to_str())["model"]
    vocab = model["vocab"]
    for letter in ALPHABET:
        vocab.setdefault(letter, len(vocab))
        vocab.setdefault(letter + "</w>", len(vocab))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    write(folder, "vocab.json", vocab)
    write(folder, "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"})


def bert(folder: Path) -> None:
    core = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(LEARN, trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    ))  # fmt: skip
    words = sorted(core.get_vocab().items(), key=lambda row: row[1])
    write(folder, "vocab.txt", "".join(f"{word}\n" for word, _ in words))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def llama3(folder: Path) -> None:
    """tokenizer.json with ignore_merges, a Split pattern, and special tokens behind the vocabulary."""
    core = byte_level(pipelines.cut_by(pipelines.CL100K), 700, [])
    saved = json.loads(core.to_str())
    saved["model"]["ignore_merges"] = True
    core = tokenizers.Tokenizer.from_str(json.dumps(saved))
    core.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"])
    core.post_processor = processors.TemplateProcessing(
        single=["<|begin_of_text|>", "$A"], pair=["<|begin_of_text|>", "$A", "<|begin_of_text|>", "$B"],
        special_tokens=[("<|begin_of_text|>", core.token_to_id("<|begin_of_text|>"))],
    )  # fmt: skip
    core.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    })  # fmt: skip


def qwen(folder: Path) -> None:
    """tokenizer.json with NFC, and added tokens that are not special (<think>)."""
    core = byte_level(pipelines.cut_by(pipelines.QWEN2), 700, [])
    core.normalizer = normalizers.NFC()
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    core.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    core.save(str(folder / "tokenizer.json"))
    added = {str(index): {"content": token.content, "lstrip": False, "rstrip": False, "single_word": False,
                          "normalized": token.normalized, "special": token.special}
             for index, token in core.get_added_tokens_decoder().items()}  # fmt: skip
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "bos_token": None, "added_tokens_decoder": added, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    })  # fmt: skip
    write(folder, "chat_template.jinja", TEMPLATE)


def tiktoken_file(folder: Path) -> None:
    """Byte ranks in base64, as OpenAI's and Llama 3's."""
    core = byte_level(pipelines.cut_by(pipelines.CL100K), 700, [])
    rows = sorted((index, bytes_of(token)) for token, index in core.get_vocab().items())
    write(folder, "tokenizer.model", "".join(f"{base64.b64encode(data or b'').decode()} {i}\n" for i, data in rows))


def sentencepiece(folder: Path, name: str, **options: Any) -> None:
    """Train with the sentencepiece package and write its model under `name`."""
    import pytest

    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    stream = io.BytesIO()
    lines = [line for text in LEARN for line in text.split("\n") if line.strip()]
    trainer.train(sentence_iterator=iter(lines), model_writer=stream, minloglevel=2, **(options | LARGER))
    (folder / name).write_bytes(stream.getvalue())


def t5(folder: Path) -> None:
    """Unigram with the table of characters of NMT-NFKC; <pad> </s> <unk> first, sentinels behind."""
    sentencepiece(
        folder, "spiece.model", vocab_size=330, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 10})


def llama2(folder: Path, **config: Any) -> None:
    """BPE with byte fallback, text left as it is."""
    sentencepiece(
        folder, "tokenizer.model", vocab_size=700, model_type="bpe", byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        character_coverage=0.99, allow_whitespace_only_pieces=True,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, **config,
    })  # fmt: skip


def mt5(folder: Path) -> None:
    """T5's without sentinels, the class named by config.json only."""
    sentencepiece(
        folder, "spiece.model", vocab_size=640, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, byte_fallback=True, character_coverage=0.999,
    )  # fmt: skip
    write(folder, "config.json", {"model_type": "mt5"})
    write(folder, "tokenizer_config.json", {"extra_ids": 0})


def xlm_roberta(folder: Path) -> None:
    """Unigram whose special tokens stand one place further than in the file, and <mask> last."""
    sentencepiece(
        folder, "sentencepiece.bpe.model", vocab_size=500, model_type="unigram", normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False, character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})


def albert(folder: Path, **config: Any) -> None:
    """Unigram in lower case, without accents."""
    sentencepiece(
        folder, "spiece.model", vocab_size=400, model_type="unigram", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
        control_symbols="[CLS],[SEP],[MASK]", user_defined_symbols='(,),",-,.,–,£,€', hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf", character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "AlbertTokenizer", **config})


def xlnet(folder: Path) -> None:
    sentencepiece(
        folder, "spiece.model", vocab_size=400, model_type="unigram", unk_id=0, bos_id=1, eos_id=2,
        control_symbols="<cls>,<sep>,<pad>,<mask>,<eod>", user_defined_symbols="<eop>,.,(,),”,-,–,£,€",
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "XLNetTokenizer"})


def openai_gpt(folder: Path) -> None:
    """GPT-1: lower case, words that end in </w>, and <unk> for what is not in the vocabulary."""
    core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(LEARN, trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    ))  # fmt: skip
    write_merges(core, folder)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "OpenAIGPTTokenizer"})


def whisper(folder: Path) -> None:
    """GPT-2's merges, and special tokens in a file of their own."""
    core = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), 600, [])
    write_merges(core, folder, {"<|endoftext|>": core.get_vocab_size()})
    special = ["<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>"]
    write(
        folder, "added_tokens.json", {token: core.get_vocab_size() + 1 + place for place, token in enumerate(special)}
    )
    write(folder, "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer"})
    write(folder, "special_tokens_map.json", {"additional_special_tokens": special, "eos_token": "<|endoftext|>"})


def m2m100(folder: Path) -> None:
    """BPE of SentencePiece, ids of fairseq, a token for each language."""
    sentencepiece(
        folder, "sentencepiece.bpe.model", vocab_size=640, model_type="bpe", normalization_rule_name="nmt_nfkc",
        character_coverage=0.999,
    )  # fmt: skip
    pieces = [piece.text for piece in SentencePieceModel.read(folder / "sentencepiece.bpe.model").pieces[3:]]
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pieces), "madeupword0000"]
    write(folder, "vocab.json", {word: index for index, word in enumerate(words)})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer", "src_lang": "zh"})


def fairseq_unigram(folder: Path, name: str, **config: Any) -> None:
    """Unigrams of SentencePiece in the file that models from fairseq come with."""
    sentencepiece(
        folder, "sentencepiece.bpe.model", vocab_size=500, model_type="unigram", normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False, character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": name, **config})


def nllb(folder: Path, **config: Any) -> None:
    sentencepiece(
        folder, "sentencepiece.bpe.model", vocab_size=640, model_type="bpe", normalization_rule_name="nmt_nfkc",
        character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "NllbTokenizer", **config})


def deberta(folder: Path, **config: Any) -> None:
    """DeBERTa-v3's spm.model: BERT's names first, [MASK] not among them."""
    sentencepiece(
        folder, "spm.model", vocab_size=500, model_type="unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "DebertaV2Tokenizer", **config})


def pegasus(folder: Path) -> None:
    sentencepiece(
        folder, "spiece.model", vocab_size=400, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, character_coverage=0.999,
    )  # fmt: skip
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer"})


def marian(folder: Path, kind: str = "unigram") -> None:
    """A model for each side, which do not know the same letters, and one vocabulary of both, without all of either."""
    size = {"vocab_size": 330, "hard_vocab_limit": False} if kind == "unigram" else {"vocab_size": 600}
    common = {"model_type": kind, "normalization_rule_name": "nmt_nfkc", **size}
    sentencepiece(folder, "source.spm", character_coverage=0.98, **common)
    sentencepiece(folder, "target.spm", character_coverage=1.0, **common)
    sides = [SentencePieceModel.read(folder / name).pieces[3:] for name in ("source.spm", "target.spm")]
    words = sorted({piece.text for side in sides for piece in side} - {"the", "at"})
    words = ["</s>", "<unk>", *words, "한국어", ">>fra<<", ">>zho<<", "<pad>"]
    write(folder, "vocab.json", {word: index for index, word in enumerate(words)})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", "source_lang": "en"})


def tekken(folder: Path) -> None:
    """Mistral's file: ranks behind the special tokens, more of them than the model uses."""
    core = byte_level(pipelines.cut_by(pipelines.CL100K), 700, [])
    rows = sorted((index, bytes_of(token) or b"") for token, index in core.get_vocab().items())
    rows = [(index, data) for index, data in enumerate(sorted((data for _, data in rows), key=len))]
    named = [{"rank": rank, "token_str": token, "is_control": True}
             for rank, token in enumerate(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))]  # fmt: skip
    write(folder, "tekken.json", {
        "config": {"pattern": pipelines.CL100K, "num_vocab_tokens": len(rows), "default_vocab_size": len(rows) - 20,
                   "default_num_special_tokens": 10, "version": "v7"},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": None}
                  for rank, data in rows],
        "special_tokens": named,
    })  # fmt: skip


def plain_llama(folder: Path) -> None:
    """LLaMA's tokenizer.json as most have it: a space before every segment, made by a normalizer."""
    llama2(folder)
    told = json.loads(Tokenizer.load(folder).core.to_str())
    told["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]}  # fmt: skip
    told["pre_tokenizer"] = None
    (folder / "tokenizer.model").unlink()
    write(folder, "tokenizer.json", told)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    write(folder, "tokenizer_config.json", config | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": "{% for m in messages %}{{ bos_token + m['role'] + m['content'] + eos_token }}{% endfor %}",
    })  # fmt: skip


def from_json(folder: Path, pre: pre_tokenizers.PreTokenizer, special: list[str], **config: Any) -> None:
    core = byte_level(pre, 700, special)
    core.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})


def bloom(folder: Path) -> None:
    """Words by BLOOM's pattern, which knows the stops of many scripts."""
    cut = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(" ?[^(\\s|[.,!?…。，、।۔،])]+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    from_json(folder, cut, ["<unk>", "<s>", "</s>", "<pad>"], bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def cohere(folder: Path) -> None:
    """Digits one by one and GPT-2's pattern, in NFC."""
    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    names = ["<PAD>", "<UNK>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"]
    from_json(folder, cut, names, bos_token=names[2], eos_token=names[3], pad_token=names[0], unk_token=names[1])
    told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    write(folder, "tokenizer.json", told | {"normalizer": {"type": "NFC"}})


CODE = "raise SystemExit('foreign code was run')\n# <|user|>\n"


def chatglm6b(folder: Path) -> None:
    """ice_text.model of unigrams with pieces for white space, and a class that is Python code."""
    blanks = [f"<|blank_{count}|>" for count in range(2, 81)]
    sentencepiece(
        folder, "ice_text.model", vocab_size=900, model_type="unigram", byte_fallback=True, pad_id=3, eos_id=2,
        normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, character_coverage=0.99,
        user_defined_symbols=["<n>", "<|tab|>", *blanks, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"],
    )  # fmt: skip
    write(folder, "tokenization_chatglm.py", CODE)
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "ChatGLMTokenizer", "bos_token": "<sop>", "eos_token": "<eop>", "gmask_token": "[gMASK]",
        "mask_token": "[MASK]", "pad_token": "<pad>", "unk_token": "<unk>", "num_image_tokens": 0,
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    })  # fmt: skip


def chatglm6b_first(folder: Path) -> None:
    """Its first version: <n> alone stands in ice_text.model, the code adds the rest, and pictures have 20,000 ids."""
    sentencepiece(
        folder, "ice_text.model", vocab_size=500, model_type="unigram", pad_id=3, eos_id=2, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", character_coverage=0.99, user_defined_symbols=["<n>"],
    )  # fmt: skip
    write(folder, "tokenization_chatglm.py", CODE)
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "ChatGLMTokenizer", "bos_token": "<sop>", "eos_token": "</s>", "eop_token": "<eop>",
        "gmask_token": "[gMASK]", "mask_token": "[MASK]", "pad_token": "<pad>", "unk_token": "<unk>",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    })  # fmt: skip


def chatglm3(folder: Path) -> None:
    """BPE of SentencePiece, and marks and roles behind its ids."""
    sentencepiece(
        folder, "tokenizer.model", vocab_size=800, model_type="bpe", byte_fallback=True, character_coverage=0.99,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    write(folder, "tokenization_chatglm.py", CODE)
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": "ChatGLMTokenizer", "remove_space": False, "do_lower_case": False,
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    })  # fmt: skip


def coded_ranks(folder: Path, name: str, file: str, **config: Any) -> None:
    """Byte ranks under a class that is Python code: Qwen-7B's and GLM-4-9B's."""
    tiktoken_file(folder)
    (folder / "tokenizer.model").rename(folder / file)
    write(folder, "tokenization_mine.py", CODE)
    write(folder, "tokenizer_config.json", {
        "tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"tokenization_mine.{name}", None]}, **config,
    })  # fmt: skip


MAKERS = {
    "gpt2": gpt2, "roberta": roberta, "clip": clip, "bert": bert, "llama3": llama3, "qwen": qwen, "t5": t5,
    "llama2": llama2, "mt5": mt5, "xlm_roberta": xlm_roberta, "albert": albert, "xlnet": xlnet,
    "openai_gpt": openai_gpt, "whisper": whisper, "pegasus": pegasus, "deberta": deberta,
    "deberta_lower": partial(deberta, do_lower_case=True, split_by_punct=True),
    "camembert": partial(fairseq_unigram, name="CamembertTokenizer"),
    "mbart": partial(fairseq_unigram, name="MBartTokenizer", src_lang="ro_RO"),
    "mbart50": partial(fairseq_unigram, name="MBart50Tokenizer", src_lang="zh_CN"),
}  # fmt: skip
