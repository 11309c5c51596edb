"""Tokens per second of one training step (forward and backward), ours beside Hugging Face's Llama, rounds interleaved.

    python benchmarks/training/step.py --threads 1 --context 512 --vocabulary 8192

Width 256, 6 layers, 4 heads, hidden 704, 4,096 tokens per step. With one thread the clock is CPU time, which a busy
neighbour does not change; with more it is wall time. Prints the median and the best of the rounds, and their ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import athanor  # noqa: F401 - sets how OpenMP's threads wait
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel

TOKENS = 4096
SHAPE = {"width": 256, "layers": 6, "heads": 4, "hidden": 704}


def ours(context: int, vocabulary: int, dtype: torch.dtype) -> Callable[[torch.Tensor], None]:
    """One step of our model; the loss leaves out what the last position would predict, as theirs does."""
    config = TransformerConfig(**SHAPE, max_positions=context, vocabulary=vocabulary)
    model = LanguageModel(config).initialise(0).to(dtype)

    def step(ids: torch.Tensor) -> None:
        model.zero_grad()
        targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)
        total, count = model.loss(ids, targets)
        (total / count).backward()

    return step


def theirs(context: int, vocabulary: int, dtype: torch.dtype, attention: str) -> Callable[[torch.Tensor], None]:
    """One step of `transformers`' Llama of the same shape."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=SHAPE["width"], intermediate_size=SHAPE["hidden"],
        num_hidden_layers=SHAPE["layers"], num_attention_heads=SHAPE["heads"], max_position_embeddings=context,
        attn_implementation=attention, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)

    def step(ids: torch.Tensor) -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = (args.context, args.vocabulary, getattr(torch, args.dtype))
    runs = {"ours": ours(*shape), "hf sdpa": theirs(*shape, "sdpa"), "hf eager": theirs(*shape, "eager")}
    ids = torch.randint(0, args.vocabulary, (TOKENS // args.context, args.context))
    clock = time.process_time if args.threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, step in runs.items():
            start = clock()
            step(ids)
            if number:  # the first round warms up
                times[name].append(clock() - start)
    middle = {name: statistics.median(spent) for name, spent in times.items()}
    for name, spent in times.items():
        print(
            f"{name:8}  median {TOKENS / middle[name]:7.0f} tok/s  best {TOKENS / min(spent):7.0f}  "
            f"ours is {middle[name] / middle['ours']:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
