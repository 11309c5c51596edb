"""Quality per minute: bits per byte of held-out text after so many CPU seconds, ours and the trainers people use.

    python benchmarks/training/quality.py ours hf litgpt nanochat --corpus TEXTS.jsonl.gz --minutes 10 \\
        --nanochat FOLDER --out curves.jsonl
    athanor run quickstart --until pack --store STORE; python benchmarks/training/quality.py ours --corpus STORE

All learn from the same tokens of one tokenizer, in rows drawn at random, on one thread, in bf16 (autocast over fp32
weights where the trainer does that), and are judged on the same text that nobody learns from. The clock is the CPU time
of training alone. How many steps fit into the minutes is measured first, so that every schedule ends where it should.

Settings are those that each recommends for training from nothing, but for the batch: theirs are made for accelerators
and would leave a handful of steps. hf: Trainer, AdamW at 5e-4, cosine, weight decay 0.1 (the training-from-scratch
chapter of Hugging Face's course). litgpt: AdamW at 6e-4 down to 6e-5, betas 0.9 and 0.95, decay 0.1, clip 1
(its pretraining configuration for a small model). nanochat: its base_train.py, with the scaling rules for depth and
batch in there. --rate replaces the peak rate of hf and litgpt: what tuning gives them. ours: what the dial chooses
for the quickstart's pretraining, but for the number of steps, which follows from the minutes.
"""

import argparse
import gzip
import importlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peers
import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.base.progress import SilentProgress
from athanor.recipes.dial import choose
from athanor.store.artifact import Store
from athanor.tokens.learn import learn
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.engines.engine import Engine
from athanor.training.loop import take_step
from athanor.training.networks import PretrainSettings, build, network
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import TokenBatch, next_token_loss
from athanor.training.run import Run
from athanor.training.setup import prepare

PIECE = 20_000  # characters; every fiftieth piece of a text is held out
SHAPE = {"width": 256, "layers": 6, "heads": 4, "hidden": 704}  # of hf and litgpt
CONTEXT, ROWS = 512, 8  # theirs: 4,096 tokens a step
DEPTH = 4  # of nanochat, which makes its width 256
SCALE = "nano"  # of ours, the quickstart's


class Text(NamedTuple):
    """Tokens to learn from and to be judged on, and how many bytes the latter are."""

    train: np.ndarray
    held: Tensor
    held_bytes: int
    vocabulary: int


class Trainer(NamedTuple):
    """One who takes part: `step(number)` learns from a batch, `nats` scores rows of inputs and targets."""

    step: Callable[[int], None]
    nats: Callable[[Tensor, Tensor], Tensor]
    context: int
    tokens: int  # in one step


def read_text(path: Path, vocabulary: int, held_tokens: int) -> Text:
    """Cut texts into pieces, learn the tokenizer from what is not held out, and encode both."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    pieces = [text[first : first + PIECE] for text in texts for first in range(0, len(text), PIECE)]
    held, kept = pieces[::50], [piece for number, piece in enumerate(pieces) if number % 50]
    tokenizer: tokenizers.Tokenizer = learn("bpe", kept[::4], vocabulary, ["<|end|>"])
    train = np.concatenate([np.array([0, *found.ids], dtype=np.int64) for found in tokenizer.encode_batch(kept)])
    ids = [0]
    for piece in held:
        ids += [*tokenizer.encode(piece).ids, 0]
    ids = ids[: held_tokens + 1]
    return Text(train, torch.tensor(ids), len(tokenizer.decode(ids[1:]).encode()), vocabulary)


def read_store(store: Store, held_tokens: int) -> Text:
    """What the quickstart packed, by its own tokenizer, and every third of the documents that it holds out."""
    names = store.remembered("quickstart")
    shards, tokenizer = store.get(names["pack"]), Tokenizer.load(store.get(names["tokenizer"]).path)
    train = np.concatenate([np.load(path) for path in sorted(shards.path.glob("train-[0-9]*.npy"))]).astype(np.int64)
    held = np.load(shards.file("heldout-00000.npy")).astype(np.int64)
    starts = np.load(shards.file("heldout-starts.npy"))
    ids = np.concatenate([held[start:end] for start, end in zip(starts[:-1:3], starts[1::3], strict=True)])
    ids = ids[: 1 + min(held_tokens, (len(ids) - 1) // CONTEXT * CONTEXT)]
    sizes = np.array([len(spelling) for spelling in tokenizer.token_bytes()])
    return Text(train, torch.from_numpy(ids), int(sizes[ids[1:]].sum()), tokenizer.vocabulary)


class Batches:
    """Rows drawn at random, the same for everybody who takes rows of this size."""

    def __init__(self, text: Text, rows: int, context: int):
        self.text, self.rows, self.context = text, rows, context

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        places = np.random.default_rng(step).integers(0, len(self.text.train) - self.context - 1, self.rows)
        rows = torch.from_numpy(np.stack([self.text.train[place : place + self.context + 1] for place in places]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


# --- who takes part ----------------------------------------------------------------------------------------------


def ours(args: argparse.Namespace, text: Text, steps: int) -> Trainer:
    chosen = {name: choice.value for name, choice in choose(SCALE, "pretrain").items()}
    settings = PretrainSettings.model_validate(
        {**chosen, **json.loads(args.ours), "steps": steps, "dtype": "bfloat16", "checkpoint_seconds": 1e9}
    )
    config = network(settings, text.vocabulary)
    model = prepare(build(settings, text.vocabulary), settings.dtype, settings)
    torch.set_num_threads(args.threads)
    batches = Batches(text, settings.rows, settings.context)
    objective = Objective(
        lambda step, share, world: TokenBatch(*batches(step), None), next_token_loss(config),
        tokens=settings.rows * settings.context,
    )  # fmt: skip
    run = Run(model, objective, settings, Path(tempfile.mkdtemp()), SilentProgress(), Engine())
    return Trainer(lambda number: take_step(run), lambda x, y: model.loss(x, y)[0], settings.context, objective.tokens)


def by_hand(
    args: argparse.Namespace, text: Text, steps: int, model: torch.nn.Module, rate: Callable[[int], float],
    logits: Callable[[Tensor], Tensor],
) -> Trainer:  # fmt: skip
    """AdamW, clipping and a schedule around a network."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = Batches(text, args.rows, CONTEXT)

    def nats(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = logits(x)
        return F.cross_entropy(scores.flatten(0, 1).float(), y.flatten(), reduction="sum")

    def step(number: int) -> None:
        x, y = batches(number)
        (nats(x, y) / y.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Trainer(step, nats, CONTEXT, args.rows * CONTEXT)


def cosine(peak: float, least: float, warmup: int, steps: int) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine from `peak` to `least`."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * done))

    return rate


def hf(args: argparse.Namespace, text: Text, steps: int) -> Trainer:
    """Trainer's own numbers; its loop is entered once and gives way after every step."""
    from transformers import TrainingArguments

    model = contest(args, text).llama("sdpa")
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=args.rows, max_steps=steps, bf16=True, use_cpu=True,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=args.rate or 5e-4,
        lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), weight_decay=0.1,
    )  # fmt: skip

    def nats(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(input_ids=x).logits
        return F.cross_entropy(scores.flatten(0, 1).float(), y.flatten(), reduction="sum")

    loop = trainer_loop(model, arguments, Batches(text, args.rows, CONTEXT), steps)
    return Trainer(lambda number: next(loop), nats, CONTEXT, args.rows * CONTEXT)


def trainer_loop(model: torch.nn.Module, arguments: Any, batches: Batches, steps: int) -> Iterator[None]:
    """Hugging Face's Trainer as a generator: it trains in a thread of its own, which runs only while we wait for it."""
    import threading

    from transformers import PrinterCallback, Trainer, TrainerCallback

    asked, done = threading.Semaphore(0), threading.Semaphore(0)

    class GiveWay(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()
            asked.acquire()

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            for step in range(steps + 1):
                for x, y in zip(*batches(step), strict=True):
                    row = torch.cat((x, y[-1:]))  # the network shifts its labels itself
                    yield {"input_ids": row, "labels": row}

    def train() -> None:
        asked.acquire()
        torch.set_num_threads(1)
        trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=[GiveWay()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    threading.Thread(target=train, daemon=True).start()
    while True:
        asked.release()
        done.acquire()
        yield


def litgpt(args: argparse.Namespace, text: Text, steps: int) -> Trainer:
    model = contest(args, text).litgpt_model()
    for name, module in model.named_modules():  # initialize_weights of its pretrain.py; the embedding is the head's
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            width, layers = SHAPE["width"], SHAPE["layers"]
            std = 1 / math.sqrt(width) / layers if name.endswith("proj") else math.sqrt(2 / 5 / width)
            torch.nn.init.normal_(module.weight, std=std)
    peak = args.rate or 6e-4
    return by_hand(args, text, steps, model, cosine(peak, peak / 10, max(1, min(100, steps // 10)), steps), model)


def nanochat(args: argparse.Namespace, text: Text, steps: int) -> Trainer:
    """The rules of scripts/base_train.py, read there: see the comments that name its variables."""
    os.environ["NANOCHAT_DTYPE"] = "bfloat16"
    sys.path.insert(0, str(args.nanochat))
    module = importlib.import_module("nanochat.gpt")
    sys.path.pop(0)

    def made(depth: int, device: str) -> Any:
        width = -(-depth * 64 // 64) * 64
        with torch.device(device):
            return module.GPT(
                module.GPTConfig(
                    sequence_len=CONTEXT, vocab_size=text.vocabulary, n_layer=depth, n_head=width // 64,
                    n_kv_head=width // 64, n_embd=width, window_pattern="L",
                )
            )  # fmt: skip

    def scaling(model: Any) -> int:
        counts = model.num_scaling_params()
        return counts["transformer_matrices"] + counts["lm_head"]

    model = made(DEPTH, "cpu")
    model.init_weights()
    reference_tokens, tokens = 12 * scaling(made(12, "meta")), 12 * scaling(model)  # D_REF, target_tokens
    share = math.sqrt(args.rows * CONTEXT / 2**19)  # batch_lr_scale
    decay = 0.28 * share * reference_tokens / tokens  # weight_decay_scaled
    optimizer = model.setup_optimizer(
        unembedding_lr=0.008 * share, embedding_lr=0.3 * share, scalar_lr=0.5 * share, matrix_lr=0.02 * share,
        weight_decay=decay,
    )  # fmt: skip
    batches = Batches(text, args.rows, CONTEXT)
    falling = round(0.65 * steps)  # warmdown_iters

    def step(number: int) -> None:
        model(*batches(number)).backward()
        left = min(1.0, (steps - number) / falling)
        rate = (number + 1) / 40 if number < 40 else left + (1 - left) * 0.05
        momentum = 0.85 + 0.12 * number / 400 if number < 400 else 0.97 * left + 0.90 * (1 - left)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * number / steps))
        optimizer.step()
        model.zero_grad(set_to_none=True)

    def nats(x: Tensor, y: Tensor) -> Tensor:
        return model(x, y, loss_reduction="none").sum()

    return Trainer(step, nats, CONTEXT, args.rows * CONTEXT)


WHO = {"ours": ours, "hf": hf, "litgpt": litgpt, "nanochat": nanochat}


def contest(args: argparse.Namespace, text: Text) -> peers.Contest:
    """What builds the networks of the others in `SHAPE`."""
    found = peers.Contest(argparse.Namespace(shape="small", dtype="bfloat16", **vars(args)))
    found.vocabulary = text.vocabulary
    return found


# --- measuring -----------------------------------------------------------------------------------------------------


def bits_per_byte(trainer: Trainer, text: Text) -> float:
    """Of the held-out text, every token foretold from what stands before it in its row."""
    x, y = text.held[:-1].view(-1, trainer.context), text.held[1:].view(-1, trainer.context)
    with torch.no_grad():
        nats = sum(float(trainer.nats(x[row : row + 8], y[row : row + 8])) for row in range(0, len(x), 8))
    return nats / math.log(2) / text.held_bytes


def measure(name: str, args: argparse.Namespace, text: Text) -> dict[str, Any]:
    """Train for the minutes and return the curve: CPU seconds of training to bits per byte."""
    torch.manual_seed(0)
    trial, spent = WHO[name](args, text, 100), []
    for number in range(7):
        start = time.process_time()
        trial.step(number)
        spent.append(time.process_time() - start)
    steps = args.steps or max(1, int(60 * args.minutes / statistics.median(spent[2:])))
    torch.manual_seed(0)
    trainer = WHO[name](args, text, steps)
    curve, seconds, looks = [], 0.0, 0
    for number in range(steps):
        start = time.process_time()
        trainer.step(number)
        seconds += time.process_time() - start
        if number + 1 == steps or seconds >= (looks + 1) * 60 * args.minutes / args.looks:
            looks += 1
            curve.append((round(seconds, 1), round(bits_per_byte(trainer, text), 4)))
            print(f"{name}: {seconds:6.1f} CPU s, step {number + 1} of {steps}, {curve[-1][1]:.4f} bits", flush=True)
    return {
        "name": name, "corpus": "quickstart" if args.corpus.is_dir() else args.corpus.name, "minutes": args.minutes,
        "steps": steps, "tokens": trainer.tokens, "rate": args.rate, "ours": args.ours if name == "ours" else "",
        "curve": curve,
    }  # fmt: skip


def main() -> None:
    """Measure one after the other and append each curve to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", nargs="+", choices=tuple(WHO))
    parser.add_argument("--corpus", type=Path, required=True, help="lines of JSON with a text each; or a store")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of training")
    parser.add_argument("--steps", type=int, help="this many steps instead of as many as fit into the minutes")
    parser.add_argument("--vocabulary", type=int, default=4096, help="to be learnt, where --corpus is no store")
    parser.add_argument("--held-tokens", type=int, default=51_200)
    parser.add_argument("--looks", type=int, default=10, help="points of the curve")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the others")
    parser.add_argument("--rate", type=float, help="peak rate of hf and litgpt")
    parser.add_argument("--ours", default="{}", help="JSON of settings that replace some of ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nanochat", type=Path, help="folder of a checkout")
    parser.add_argument("--cache", type=Path, help="folder that keeps the tokens for the next run")
    parser.add_argument("--out", type=Path, default=Path("curves.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kept = args.cache and args.cache / f"{args.corpus.name}-{args.vocabulary}-{args.held_tokens}.npz"
    if kept and kept.exists():
        with np.load(kept) as file:
            text = Text(file["train"], torch.from_numpy(file["held"]), *file["numbers"].tolist())
    else:
        if args.corpus.is_dir():
            text = read_store(Store(args.corpus), args.held_tokens)
        else:
            text = read_text(args.corpus, args.vocabulary, args.held_tokens)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, train=text.train, held=text.held.numpy(), numbers=[text.held_bytes, text.vocabulary])
    print(f"{len(text.train):,} tokens; held out: {len(text.held):,} tokens, {text.held_bytes:,} bytes", flush=True)
    for name in args.who:
        found = measure(name, args, text)
        with open(args.out, "a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
