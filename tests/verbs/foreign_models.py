"""Tiny models of other makers, as they come: weights, config, and a tokenizer and chat template of their own."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.tokens import makers
from tests.tokens.foreign_templates import QWEN2_5

# Llama 2's form: [INST] … [/INST], the system text within the first question, roles that alternate.
INST = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = '' %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% set content = system_message + message['content'] if loop.first else message['content'] %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Llama 3's form without its date.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
PADDING = 24  # rows of Qwen2's embedding that no token has


def save(folder: Path, model: Any) -> Path:
    """The weights, far from ties, beside the tokenizer that the folder holds already."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def renew(folder: Path, transformers: Any) -> Any:
    """The tokenizer as transformers reads it and writes it again, in its newest files."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def qwen2(folder: Path, transformers: Any) -> Path:
    """Byte-level BPE with NFC, ChatML with tools, and an embedding with more rows than there are tokens.

    What ends an answer is known to the template only; what ends a text to generation_config.json only.
    """
    makers.qwen(folder)
    makers.write(folder, "chat_template.jinja", QWEN2_5)
    ids = renew(folder, transformers).get_vocab()
    config = transformers.Qwen2Config(
        **SHAPE, vocab_size=len(ids) + PADDING, bos_token_id=None, eos_token_id=ids["<|endoftext|>"], pad_token_id=None
    )
    return save(folder, transformers.Qwen2ForCausalLM(config))


def llama2(folder: Path, transformers: Any) -> Path:
    """SentencePiece BPE with bytes to fall back on, and [INST]."""
    makers.llama2(folder)
    makers.write(folder, "chat_template.jinja", INST)
    config = transformers.LlamaConfig(**SHAPE, vocab_size=len(renew(folder, transformers)))
    return save(folder, transformers.LlamaForCausalLM(config))


def llama3(folder: Path, transformers: Any) -> Path:
    """Byte-level BPE that looks words up whole, with a token that begins every text."""
    makers.llama3(folder)
    saved = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    del saved["model"]["merges"][-80:]  # the tokens stay, and only whole words that look like them become them
    makers.write(folder, "tokenizer.json", saved)
    makers.write(folder, "chat_template.jinja", HEADERS)
    tokenizer = renew(folder, transformers)
    config = transformers.LlamaConfig(
        **SHAPE, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return save(folder, transformers.LlamaForCausalLM(config))


def gpt2(folder: Path, transformers: Any) -> Path:
    """The older files vocab.json and merges.txt, and no chat template."""
    makers.gpt2(folder)
    count = len(transformers.AutoTokenizer.from_pretrained(folder))
    config = transformers.GPT2Config(
        vocab_size=count,
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=count - 1,
        eos_token_id=count - 1,
    )
    return save(folder, transformers.GPT2LMHeadModel(config))


MODELS = {"qwen2": qwen2, "llama2": llama2, "llama3": llama3, "gpt2": gpt2}
