"""Every way to fine-tune one model on the same conversations: what it learns, what it costs.

    python benchmarks/training/finetuning.py MODEL DATA --epochs 2 [--methods lora,full] [--rates 0.3,1,3]

Each row is `athanor finetune MODEL DATA --method …` in a process of its own: held-out loss before and after with its
interval, numbers that learn, peak memory of the process, and the processor seconds of the whole command. With --rates
each method is run at its chosen learning rate times each factor: is what is chosen near the best?
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from typing import Any

from athanor.base.tables import size, text_table

METHODS = ("lora", "rslora", "dora", "qlora", "ia3", "prefix", "ptuning", "freeze", "full")


def command(asked: argparse.Namespace, method: str, *more: str) -> list[str]:
    """The command line of one run."""
    words = [sys.executable, "-m", "athanor", "finetune", asked.model, asked.data, "--method", method, "--json"]
    return [*words, "--epochs", str(asked.epochs), "--long-rows", "truncate", *asked.more, *more]


def run(words: list[str]) -> tuple[dict[str, Any], float]:
    """What a command answers, and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rates", default="1")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[])
    asked = parser.parse_args()
    os.environ.setdefault("ATHANOR_LANGUAGE", "en")
    rows = []
    for method in asked.methods.split(","):
        plan, _ = run(command(asked, method, "--plan"))
        chosen = plan["steps"]["finetune"]["settings"]["learning_rate"]
        for factor in (float(one) for one in asked.rates.split(",")):
            rate = float(f"{chosen * factor:.3g}")
            records, seconds = run(command(asked, method, "--learning-rate", str(rate)))
            tuned, judged = records["finetune"]["measurements"], records["answers"]["measurements"]
            span = f"{judged['change']:+.3f} ({judged['change_low']:+.3f} … {judged['change_high']:+.3f})"
            rows.append([
                method, rate, f"{tuned.get('learning_parameters', 0):,}", f"{judged['heldout_loss_before']:.3f}",
                f"{judged['heldout_loss_after']:.3f}", span, size(tuned["peak_memory"]), f"{seconds:.0f}",
            ])  # fmt: skip
            print("  ".join(map(str, rows[-1])), file=sys.stderr, flush=True)
    header = ["method", "rate", "numbers learnt", "before", "after", "change", "peak memory", "CPU s"]
    print(text_table(header, rows))


if __name__ == "__main__":
    main()
