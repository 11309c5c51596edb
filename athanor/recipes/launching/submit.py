"""Writes the job of a cluster from what the user said, and hands it to the cluster's own client."""

import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from athanor.base.errors import AthanorError
from athanor.recipes.launching import kubernetes
from athanor.recipes.launching.kubernetes import indexed_job, train_job
from athanor.recipes.launching.plan import Launch, with_engine
from athanor.recipes.launching.ray import ray_program
from athanor.recipes.launching.slurm import sbatch_script
from athanor.recipes.launching.ssh import ssh_script
from athanor.recipes.recipe import load_recipe

# kind: (end of the file's name, the client's command, where it comes from)
CLIENTS = {
    "slurm": (".sbatch", ("sbatch",), "Slurm: ask on a machine of the cluster"),
    "k8s": (".yaml", ("kubectl", "create", "-f"), "https://kubernetes.io/docs/tasks/tools"),
    "kubeflow": (".yaml", ("kubectl", "create", "-f"), "https://kubernetes.io/docs/tasks/tools"),
    "ray": (".py", ("ray", "job", "submit", "--working-dir", ".", "--", "python"), "pip install 'ray[default]'"),
    "ssh": (".sh", ("bash",), "bash, and ssh in it"),
}


def write_job(
    kind: str,
    recipe: str,
    overrides: Sequence[str],
    *,
    nodes: int,
    gpus: int,
    processes: int | None,
    cores: int,
    hours: float | None,
    engine: str,
    scale: str | None,
    store: str | None,
    partition: str | None,
    image: str | None,
    claim: str | None,
    hosts: str | None,
    folder: str,
) -> str:
    """The text of a job.

    Raises:
        AthanorError: the recipe has an unknown key, or something that this kind of job needs was not said, or is said
            and has no meaning for it.
    """
    given = {"partition": partition, "image": image, "claim": claim, "hosts": hosts}
    refuse_senseless(kind, given)
    refuse_no_names(given)
    if kind in ("k8s", "kubeflow"):
        if store is not None:
            raise AthanorError(f"--store has no meaning for --on {kind}", fix="--claim names the volume it stands on")
        store = kubernetes.MOUNT
    elif store is None:
        raise AthanorError(
            f"--on {kind} needs --store", fix="name a folder that all machines share, such as --store /shared/store"
        )
    machines = [host for host in (hosts or "").split(",") if host]
    if kind == "ssh" and (not machines or any(host.startswith("-") for host in machines)):
        raise AthanorError(f"--hosts {hosts}", allowed="names of machines with commas between, such as anna,me@berta")
    if hours is not None and not math.isfinite(hours):
        raise AthanorError(
            f"--hours {hours}", allowed="a number of hours", fix="leave it out for the cluster's own limit"
        )
    if kind == "ssh" and nodes not in (1, len(machines)):
        raise AthanorError(f"--nodes {nodes} with {len(machines)} hosts", fix="leave --nodes out")
    chosen = [*overrides, *([f"scale={scale}"] if scale else [])]
    count, each = len(machines) or nodes, processes or max(1, gpus)
    words = with_engine(load_recipe(recipe, chosen), engine, chosen, count * each)
    launch = Launch(
        name=job_name(recipe), words=("run", recipe, *words, "--store", store), nodes=count, gpus=gpus,
        processes=each, cores=cores, hours=hours,
    )  # fmt: skip
    if kind == "slurm":
        return sbatch_script(launch, partition)
    if kind == "ray":
        return ray_program(launch)
    if kind == "ssh":
        return ssh_script(launch, machines, folder)
    assert image is not None and claim is not None
    return (train_job if kind == "kubeflow" else indexed_job)(launch, image, claim)


def refuse_senseless(kind: str, given: Mapping[str, str | None]) -> None:
    """Refuse what a kind of job needs and was not said, and what was said and has no meaning for it."""
    own = {"slurm": ("partition",), "k8s": ("image", "claim"), "kubeflow": ("image", "claim"), "ssh": ("hosts",)}
    for name, value in given.items():
        if value is not None and name not in own.get(kind, ()):
            raise AthanorError(f"--{name} has no meaning for --on {kind}", fix="leave it out")
        if value is None and name in own.get(kind, ()) and name != "partition":
            raise AthanorError(
                f"--on {kind} needs --{name}", fix=f"athanor launch --help shows an example with --{name}"
            )


NAMES = {  # what a cluster takes as the name of a thing, and how that is said
    "partition": (r"[\w.-]+(,[\w.-]+)*", "names of partitions, with commas between"),
    "claim": (r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "small letters, digits, hyphens and dots (RFC 1123)"),
    "image": (r"\S+", "a name of an image, without spaces"),
}


def refuse_no_names(given: Mapping[str, str | None]) -> None:
    """Refuse what the cluster would not take as a name, or would read as something else."""
    for name, (form, allowed) in NAMES.items():
        value = given[name]
        if value is not None and not re.fullmatch(form, value):
            raise AthanorError(f"--{name} {value!r}", allowed=allowed)


def job_name(recipe: str) -> str:
    """A name that every cluster takes: small letters, digits and hyphens (RFC 1035)."""
    stem = re.sub(r"[^a-z0-9]+", "-", Path(recipe).stem.lower()).strip("-")
    return f"athanor-{stem}"[:50].rstrip("-")


def submit_job(kind: str, text: str) -> str:
    """Write the job beside the user and hand it in; returns what the client said.

    Raises:
        AthanorError: the client is not here, or refused it.
    """
    ending, words, source = CLIENTS[kind]
    needed = ["ssh", "bash"] if kind == "ssh" else [words[0]]
    for program in needed:
        if shutil.which(program) is None:
            raise AthanorError(f"--submit needs {program}, and it is not on this machine", fix=f"install it ({source})")
    path = Path(f"athanor-job{ending}")
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([*words, str(path)], text=True, capture_output=kind != "ssh", check=False)
    if done.returncode:
        said = (done.stderr or "").strip()
        raise AthanorError(f"{words[0]} refused {path} ({done.returncode}): {said}", code=done.returncode)
    return f"{path}: {(done.stdout or '').strip()}"
