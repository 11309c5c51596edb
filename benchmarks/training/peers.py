"""Tokens per second of whole training steps: our loop beside the trainers people use, rounds interleaved.

    python benchmarks/training/peers.py --dtype bfloat16 --nanogpt FOLDER --nanochat FOLDER --litgpt

A step is a batch of 4,096 (--tokens) random tokens, loss, gradient, clipping to 1 and an update of AdamW (nanochat: its
own Muon), with numbers and settings a user of that trainer would take: autocast to bf16 over fp32 weights, fused AdamW.
Every network has the same width, layers, heads and vocabulary, and one weight for embedding and head (GPT-2's blocks in
nanoGPT; nanochat has its own, and a head of its own; their feed-forward layers are theirs: 8 D^2 weights, ours 8.25).
Each lives in a process of its own, because a run of ours sets how malloc and float32 products work, which the others do
not; they step in turns. The clock is CPU time with one thread, wall time with more. Prints medians, ratios to ours, the
share of the measured peak of matrix products, and peak memory, anew after every round,
so that a run that is cut short has said what it knew.

The folders are checkouts of those projects; --litgpt needs the package. What is not given is left out. To give malloc's
setting to the others, too: MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647 before the command.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import athanor  # noqa: F401 - sets how OpenMP's threads wait
from athanor.base.device import quicken_float32
from athanor.base.progress import SilentProgress
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.training.engines.engine import Engine
from athanor.training.loop import take_step
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import TokenBatch, next_token_loss
from athanor.training.run import Run
from athanor.training.settings import LoopSettings
from athanor.training.setup import prepare

SHAPES = {  # width, layers, heads, hidden of a gated layer, vocabulary, context
    "small": (256, 6, 4, 704, 8192, 512),
    "110m": (768, 12, 12, 2048, 32000, 512),
    "other": (384, 8, 6, 1024, 16384, 1024),
}
WARM_UP = 2  # rounds that are not counted
Step = Callable[[torch.Tensor], None]


class Contest:
    """One shape, one number type, and who takes part."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.width, self.layers, self.heads, self.hidden, self.vocabulary, self.context = SHAPES[args.shape]
        self.bf16 = args.dtype == "bfloat16"

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16)

    def ours(self, compiled: bool = False) -> Step:
        config = TransformerConfig(
            width=self.width, layers=self.layers, heads=self.heads, hidden=self.hidden,
            vocabulary=self.vocabulary, max_positions=self.context, tied=True,
        )  # fmt: skip
        batch: list[TokenBatch] = []
        objective = Objective(lambda step, share, world: batch[0], next_token_loss(config), tokens=self.args.tokens)
        settings = LoopSettings(
            steps=10**6, rows=self.args.tokens // self.context, learning_rate=1e-3, optimizer="adamw",
            checkpoint_seconds=1e9, compile=compiled,
        )  # fmt: skip
        model = prepare(LanguageModel(config).initialise(0), self.args.dtype, settings)
        torch.set_num_threads(self.args.threads)
        run = Run(model, objective, settings, Path(tempfile.mkdtemp()), SilentProgress(), Engine())

        def step(ids: torch.Tensor) -> None:
            targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)
            batch[:] = [TokenBatch(ids, targets, None)]
            take_step(run)

        return step

    def plain(self, model: torch.nn.Module, loss: Callable[[torch.Tensor], torch.Tensor]) -> Step:
        """The loop that everybody writes."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

        def step(ids: torch.Tensor) -> None:
            with self.autocast():
                value = loss(ids)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value.item()

        return step

    def llama(self, attention: str) -> torch.nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, max_position_embeddings=self.context,
            attn_implementation=attention, use_cache=False, tie_word_embeddings=True,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    def hugging_face(self, attention: str, compiled: bool) -> Step:
        model = self.llama(attention)
        module = torch.compile(model) if compiled else model
        return self.plain(model, lambda ids: module(input_ids=ids, labels=ids).loss)

    def trainer(self) -> Step:
        """Hugging Face's Trainer; it takes 4 steps for each of ours, whose time is divided by 4."""
        from transformers import PrinterCallback, Trainer, TrainingArguments

        model = self.llama("sdpa")
        steps = 4

        def step(ids: torch.Tensor) -> None:
            rows = [{"input_ids": row, "labels": row} for row in ids] * steps
            arguments = TrainingArguments(
                tempfile.mkdtemp(), per_device_train_batch_size=len(ids), max_steps=steps, bf16=self.bf16, use_cpu=True,
                report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=1e-3,
            )  # fmt: skip
            trainer = Trainer(model, arguments, train_dataset=rows)
            trainer.remove_callback(PrinterCallback)
            trainer.train()

        step.steps = steps  # type: ignore[attr-defined]
        return step

    def nanogpt(self, compiled: bool) -> Step:
        sys.path.insert(0, str(self.args.nanogpt))
        module = importlib.import_module("model")
        sys.path.pop(0)
        config = module.GPTConfig(
            block_size=self.context, vocab_size=self.vocabulary, n_layer=self.layers, n_head=self.heads,
            n_embd=self.width, dropout=0.0, bias=False,
        )  # fmt: skip
        model = module.GPT(config)
        run = torch.compile(model) if compiled else model
        return self.plain(model, lambda ids: run(ids, ids)[1])

    def litgpt_model(self) -> torch.nn.Module:
        from litgpt.config import Config
        from litgpt.model import GPT

        config = Config(
            block_size=self.context, padded_vocab_size=self.vocabulary, vocab_size=self.vocabulary,
            n_layer=self.layers, n_head=self.heads, n_embd=self.width, rotary_percentage=1.0, parallel_residual=False,
            bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=self.hidden,
        )  # fmt: skip
        model = GPT(config)
        model.lm_head.weight = model.transformer.wte.weight
        return model

    def litgpt(self, compiled: bool) -> Step:
        model = self.litgpt_model()
        run = torch.compile(model) if compiled else model

        def loss(ids: torch.Tensor) -> torch.Tensor:
            scores = run(ids)
            return torch.nn.functional.cross_entropy(scores[:, :-1].reshape(-1, self.vocabulary), ids[:, 1:].flatten())

        return self.plain(model, loss)

    def nanochat(self, compiled: bool) -> Step:
        os.environ["NANOCHAT_DTYPE"] = self.args.dtype
        sys.path.insert(0, str(self.args.nanochat))
        module = importlib.import_module("nanochat.gpt")
        sys.path.pop(0)
        config = module.GPTConfig(
            sequence_len=self.context, vocab_size=self.vocabulary, n_layer=self.layers, n_head=self.heads,
            n_kv_head=self.heads, n_embd=self.width,
        )  # fmt: skip
        model = module.GPT(config)
        model.init_weights()
        optimizer = model.setup_optimizer()
        run = torch.compile(model) if compiled else model

        def step(ids: torch.Tensor) -> None:
            loss = run(ids, ids)
            loss.backward()
            optimizer.step()
            model.zero_grad(set_to_none=True)
            loss.item()

        return step

    def all(self) -> dict[str, Callable[[], Step]]:
        """Everybody who can take part, by name."""
        found: dict[str, Callable[[], Step]] = {"ours": self.ours, "hf trainer": self.trainer}
        for attention in ("sdpa", "eager"):
            found[f"hf {attention}"] = lambda a=attention: self.hugging_face(a, False)  # type: ignore[misc]
        makers = {"nanogpt": self.nanogpt, "nanochat": self.nanochat, "litgpt": self.litgpt}
        makers = {name: maker for name, maker in makers.items() if getattr(self.args, name)}
        found |= {name: lambda m=maker: m(False) for name, maker in makers.items()}  # type: ignore[misc]
        if self.args.compile:
            found["ours compiled"] = lambda: self.ours(True)
            found["hf eager compiled"] = lambda: self.hugging_face("eager", True)
            found |= {f"{name} compiled": lambda m=maker: m(True) for name, maker in makers.items()}  # type: ignore[misc]
        return found

    def multiply_adds(self) -> int:
        """Of one token's products and attention, forward and backward, in FLOPs."""
        weights = self.layers * (4 * self.width**2 + 3 * self.width * self.hidden) + self.width * self.vocabulary
        return 6 * weights + 6 * self.layers * self.width * self.context


def peak(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """FLOP/s of a large product."""
    a, b = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    a @ b
    spent = []
    for _ in range(5):
        start = clock()
        for _ in range(5):
            a @ b
        spent.append(clock() - start)
    return 5 * 2 * 2048 * 1024 * 1024 / statistics.median(spent)


def clock_of(threads: int) -> Callable[[], float]:
    """Seconds of CPU where one thread works, else of the clock on the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def obey(contest: Contest, name: str) -> None:
    """The process of one contestant: for each line, which holds a round's number, a step; answers with what it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    clock, step = clock_of(contest.args.threads), contest.all()[name]()
    for line in sys.stdin:
        generator = torch.Generator().manual_seed(int(line))
        shape = contest.args.tokens // contest.context, contest.context
        ids = torch.randint(0, contest.vocabulary, shape, generator=generator)
        start = clock()
        step(ids)
        seconds = (clock() - start) / getattr(step, "steps", 1)
        # Not ru_maxrss, which begins at the memory of the process that started this one.
        peak_kB = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "megabytes": peak_kB / 1000}), file=answers, flush=True)


class Contestant:
    """A process that trains, and what its steps took."""

    def __init__(self, name: str):
        self.name, self.seconds, self.megabytes = name, list[float](), 0.0
        command = [sys.executable, *sys.argv, "--only", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self, number: int) -> None:
        """Have it take one step."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(number, file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.megabytes = answer["megabytes"]


def show(contest: Contest, contestants: list[Contestant], best: float) -> None:
    """The table of the rounds so far."""
    rounds = len(contestants[0].seconds)
    print(f"{contest.args.shape}, {contest.args.dtype}, {contest.args.threads} threads, {rounds} rounds; ", end="")
    print(f"products {best / 1e9:.0f} GFLOP/s")
    for one in contestants:
        middle = statistics.median(one.seconds)
        ratios = [b / a for a, b in zip(contestants[0].seconds, one.seconds, strict=True)]
        share = contest.multiply_adds() * contest.args.tokens / middle / best
        print(
            f"{one.name:20} {contest.args.tokens / middle:7.0f} tok/s  ours is {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) times as fast  {100 * share:3.0f} % of the products' peak  "
            f"{one.megabytes:6.0f} MB",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=4096, help="in one step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also everybody compiled (a minute each, first)")
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--nanochat", type=Path)
    parser.add_argument("--litgpt", action="store_true")
    parser.add_argument("--who", help="names that take part, with commas, ours first; left out: all")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    contest = Contest(args)
    if args.only:
        obey(contest, args.only)
        return
    quicken_float32()
    best = peak(getattr(torch, args.dtype), clock_of(args.threads))
    contestants = [Contestant(name) for name in (args.who.split(",") if args.who else contest.all())]
    for number in range(WARM_UP + args.rounds):
        for one in contestants:
            one.step(number)
            if number < WARM_UP:
                one.seconds.clear()
        if number >= WARM_UP:
            show(contest, contestants, best)
    for one in contestants:
        one.process.communicate()


if __name__ == "__main__":
    main()
