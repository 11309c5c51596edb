"""Kubernetes: a plain indexed Job with a service for its names, or a TrainJob of Kubeflow Trainer v2."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from athanor.recipes.launching.plan import ENVIRONMENT, PORT, RESTARTS, SAVING, Launch

MOUNT = "/store"  # where the shared volume is in every container
GRACE = SAVING + 20  # seconds a pod has to save when it is taken away
GPU = "nvidia.com/gpu"


def indexed_job(launch: Launch, image: str, claim: str) -> str:
    """Pods numbered from 0 (JOB_COMPLETION_INDEX), which find the first by its name; nothing else is installed."""
    first = f"{launch.name}-0.{launch.name}"
    launch = replace(launch, words=literal(launch.words))
    meeting = ("--node-rank", "$(JOB_COMPLETION_INDEX)", "--master-addr", first, "--master-port", str(PORT))
    container = {
        "name": "athanor", "image": image, "command": launch.torchrun(*meeting), "env": _environment(),
        "resources": _resources(launch), "volumeMounts": [{"name": "store", "mountPath": MOUNT}],
    }  # fmt: skip
    pod = {
        "subdomain": launch.name, "restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE,
        "containers": [container], "volumes": [_volume(claim)],
    }  # fmt: skip
    # Processes of one machine cannot go on without the others': a lost pod ends the Job's pods, which begin again.
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": launch.name},
        "spec": {
            "completionMode": "Indexed", "completions": launch.nodes, "parallelism": launch.nodes,
            "backoffLimit": RESTARTS * launch.nodes, "template": {"spec": pod}, **_limit(launch),
        },
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": launch.name},
        "spec": {  # names of pods that are not ready too: they meet before they are
            "clusterIP": "None", "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": launch.name},
        },
    }  # fmt: skip
    return yaml.safe_dump_all([service, job], sort_keys=False)


def literal(words: Sequence[str]) -> tuple[str, ...]:
    """Words in which Kubernetes fills in nothing: it reads $(NAME) as a variable, and $$( as a dollar."""
    return tuple(word.replace("$(", "$$(") for word in words)


def train_job(launch: Launch, image: str, claim: str, runtime: str = "torch-distributed") -> str:
    """A TrainJob (trainer.kubeflow.org/v1alpha1); its runtime tells torchrun where the machines meet."""
    trainer = {
        "image": image, "command": ["torchrun", "-m", "athanor", *literal(launch.words)], "env": _environment(),
        "numNodes": launch.nodes, "numProcPerNode": launch.processes, "resourcesPerNode": _resources(launch),
    }  # fmt: skip
    pod = {
        "terminationGracePeriodSeconds": GRACE,
        "volumes": [_volume(claim)],
        "containers": [{"name": "node", "volumeMounts": [{"name": "store", "mountPath": MOUNT}]}],
    }
    job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    patch = {"manager": "athanor.dev/launch", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}
    spec = {"runtimeRef": {"name": runtime}, "trainer": trainer, "runtimePatches": [patch], **_limit(launch)}
    row = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": launch.name}}
    return yaml.safe_dump({**row, "spec": spec}, sort_keys=False)


def _environment() -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in ENVIRONMENT.items()]


def _volume(claim: str) -> dict[str, Any]:
    return {"name": "store", "persistentVolumeClaim": {"claimName": claim}}


def _resources(launch: Launch) -> dict[str, Any]:
    asked: dict[str, str] = {"cpu": str(launch.cores)} | ({GPU: str(launch.gpus)} if launch.gpus else {})
    return {"requests": asked, "limits": dict(asked)}


def _limit(launch: Launch) -> dict[str, Any]:
    return {} if launch.hours is None else {"activeDeadlineSeconds": round(launch.hours * 3_600)}
