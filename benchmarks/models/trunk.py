"""The trunk beside `transformers`' own modules of the same shape: forward, and forward and backward, interleaved.

    python benchmarks/models/trunk.py --threads 1
    python benchmarks/models/trunk.py --imports

Vectors in, vectors out: no embedding, no loss. The peer is the better of its SDPA and its eager attention, row by row.
With one thread the clock is CPU time, which a busy neighbour does not change; with more it is wall time. Prints the
median of the rounds as time per row of the batch, and their ratio (above 1: ours is faster).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

import athanor  # noqa: F401 - sets how OpenMP's threads wait
from athanor.models.config import TransformerConfig
from athanor.models.transformer import Transformer

GPT = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True}
SHAPES = {  # name -> width, layers, heads, hidden, rows, positions, our fields
    "llama 256 x 6": (256, 6, 4, 704, 8, 512, {}),
    "llama 768 x 4": (768, 4, 12, 2_048, 2, 512, {}),
    "gpt2 512 x 6": (512, 6, 8, 2_048, 4, 256, {**GPT, "position": "none", "mlp": "gelu_tanh"}),
    "bert 512 x 6": (
        512, 6, 8, 2_048, 4, 256, {**GPT, "position": "none", "mlp": "gelu", "causal": False, "norm_place": "after"}
    ),
}  # fmt: skip
IMPORTS = {
    "ours": "from athanor.models.language import LanguageModel",
    "theirs": "from transformers import LlamaForCausalLM",
}


def ours(name: str, dtype: torch.dtype) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Our trunk, and what runs it."""
    width, layers, heads, hidden, _, length, more = SHAPES[name]
    config = TransformerConfig(
        width=width, layers=layers, heads=heads, hidden=hidden, max_positions=length, **more
    )  # fmt: skip
    trunk = Transformer(config).to(dtype)
    positions_BT = torch.arange(length)[None]
    return trunk, lambda x_BTD: trunk(x_BTD, positions_BT=positions_BT)


def theirs(name: str, dtype: torch.dtype, attention: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The same network of `transformers`; a GPT-2 or BERT adds its table of positions, which is next to nothing."""
    width, layers, heads, hidden, _, length, _ = SHAPES[name]
    common = {"vocab_size": 8, "attn_implementation": attention, "use_cache": False}
    if name.startswith("gpt2"):
        config = transformers.GPT2Config(
            n_embd=width, n_layer=layers, n_head=heads, n_inner=hidden, n_positions=length, **common,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        )  # fmt: skip
        model: nn.Module = transformers.GPT2Model(config)
    else:
        kind = "Llama" if name.startswith("llama") else "Bert"
        config = getattr(transformers, kind + "Config")(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=hidden,
            max_position_embeddings=length, **common,
        )  # fmt: skip
        more = {"add_pooling_layer": False} if kind == "Bert" else {}
        model = getattr(transformers, kind + "Model")(config, **more)
    model = model.to(dtype).eval()  # no dropout; gradients are made all the same
    return model, lambda x_BTD: model(inputs_embeds=x_BTD).last_hidden_state


def once(module: nn.Module, run: Callable[[Tensor], Tensor], x_BTD: Tensor, backward: bool) -> None:
    """One pass."""
    if not backward:
        with torch.no_grad():
            run(x_BTD)
        return
    module.zero_grad()
    run(x_BTD).sum().backward()


def compare(name: str, dtype: torch.dtype, backward: bool, rounds: int, clock: Callable[[], float]) -> None:
    """Measure one row of the table and print it."""
    width, _, _, _, rows, length, _ = SHAPES[name]
    x_BTD = torch.randn(rows, length, width, dtype=dtype, requires_grad=backward)
    runs = {"ours": ours(name, dtype), "sdpa": theirs(name, dtype, "sdpa"), "eager": theirs(name, dtype, "eager")}
    spent: dict[str, list[float]] = {one: [] for one in runs}
    for number in range(rounds + 1):
        for one, (module, run) in runs.items():
            start = clock()
            once(module, run, x_BTD, backward)
            if number:  # the first round warms up
                spent[one].append(clock() - start)
    middle = {one: 1_000 * statistics.median(times) / rows for one, times in spent.items()}
    best = min(middle["sdpa"], middle["eager"])
    what = "forward + backward" if backward else "forward"
    print(
        f"{name:14} {str(dtype)[6:]:9} {what:19} ours {middle['ours']:7.1f} ms/row   sdpa {middle['sdpa']:7.1f}   "
        f"eager {middle['eager']:7.1f}   ratio {best / middle['ours']:.2f}",
        flush=True,
    )


def imports(rounds: int) -> None:
    """Seconds from an empty process to the class, ours and theirs, interleaved."""
    spent: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, line in IMPORTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], check=True)
            spent[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(times) for name, times in spent.items()}
    print(f"import: ours {middle['ours']:.2f} s, transformers {middle['theirs']:.2f} s, "
          f"ratio {middle['theirs'] / middle['ours']:.2f}")  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", choices=SHAPES, default=None, help="one row only")
    parser.add_argument("--imports", action="store_true", help="measure the time to import instead")
    args = parser.parse_args()
    if args.imports:
        imports(args.rounds)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    for name in SHAPES if args.shape is None else [args.shape]:
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                compare(name, dtype, backward, args.rounds, clock)


if __name__ == "__main__":
    main()
