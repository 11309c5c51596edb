"""How long the quickstart takes here and what comes out: one fresh run, as a JSON row.

python benchmarks/quickstart.py [STEP.KEY=VALUE ...]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the quickstart in an empty store and print time, peak memory and the figures of its model."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "athanor", "run", "quickstart", *sys.argv[1:], "--store", folder, "--json"]
        clock = time.monotonic()
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent)
        seconds = time.monotonic() - clock
    records = json.loads(done.stdout)
    evaluation, model = records["evaluate"]["measurements"], records["quantize"]["measurements"]
    row = {
        "seconds": round(seconds, 1),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        "cores": len(os.sched_getaffinity(0)),
        "steps": {name: record["measurements"]["seconds"] for name, record in records.items()},
        "training_tokens_per_second": {
            name: round(records[name]["measurements"]["tokens"] / records[name]["measurements"]["train_seconds"])
            for name in ("pretrain", "finetune")
        },
        "evaluation": {key: value for key, value in evaluation.items() if not key.startswith("peak")},
        "int4": {key: model[key] for key in ("kl_mean", "agreement", "bits_before", "bits_after", "bytes")},
    }
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
