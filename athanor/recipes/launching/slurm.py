"""Slurm: a batch script for `sbatch`."""

import shlex

from athanor.recipes.launching.plan import ENVIRONMENT, PORT, RESTARTS, SAVING, Launch

WARNING = SAVING + 20  # seconds before the time limit: SIGTERM, upon which a checkpoint is saved


def sbatch_script(launch: Launch, partition: str | None = None) -> str:
    """One torchrun per machine; the first of them is where all meet."""
    lines = [f"--job-name={launch.name}", f"--nodes={launch.nodes}", "--ntasks-per-node=1"]
    lines += [f"--cpus-per-task={launch.cores}", f"--output={launch.name}-%j.log", "--requeue"]
    lines += [f"--signal=TERM@{WARNING}"]
    if launch.gpus:
        lines.append(f"--gpus-per-node={launch.gpus}")
    if launch.hours is not None:
        lines.append(f"--time={round(launch.hours * 60)}")
    if partition is not None:
        lines.append(f"--partition={partition}")
    head = "\n".join(f"#SBATCH {line}" for line in lines)
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items())
    meeting = ("--rdzv-backend", "c10d", "--max-restarts", str(RESTARTS))
    command = shlex.join(launch.torchrun(*meeting, "--rdzv-id", "@ID@", "--rdzv-endpoint", "@HEAD@"))
    command = command.replace("@ID@", '"$SLURM_JOB_ID"').replace("@HEAD@", f'"$head:{PORT}"')
    return f"""#!/bin/bash
{head}
# Stopped before the limit it saves and leaves with 75; submitted again it goes on. The store is on a shared disk.
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
{exports}
exec srun --kill-on-bad-exit=1 {command}
"""
