"""Machines reached by ssh: a script that starts torchrun on each of them, and stops all when one is lost."""

import shlex
from collections.abc import Sequence

from athanor.recipes.launching.plan import ENVIRONMENT, PORT, Launch


def ssh_script(launch: Launch, hosts: Sequence[str], folder: str) -> str:
    """The first host is where all meet.

    Args:
        hosts: as ssh knows them, one for each machine.
        folder: where to start, the same on all; commands are looked for in its `.venv/bin` first.
    """
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items())
    lines = []
    for number, host in enumerate(hosts):
        where = ("--node-rank", str(number), "--master-addr", hosts[0].rpartition("@")[2], "--master-port", str(PORT))
        command = f"{exports} exec {shlex.join(launch.torchrun(*where))}"
        inner = f"cd {shlex.quote(folder)} && PATH=$PWD/.venv/bin:$PATH {command}"
        # -tt: a terminal that goes away takes what runs there with it
        lines.append(f"ssh -tt -o BatchMode=yes {shlex.quote(host)} {shlex.quote(inner)} </dev/null &")
    started = "\n".join(lines)
    return f"""#!/bin/bash
# Stopped, it stops all machines; started again, training goes on. The store is on a disk that all of them share.
set -u
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap 'exit 75' TERM INT
{started}
for machine in $(seq {len(hosts)}); do
    wait -n || exit $?
done
"""
