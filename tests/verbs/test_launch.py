"""Jobs for clusters: each is what its own client takes, and starts what torchrun and `athanor run` take."""

import ast
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kubeflow_trainer_api import models
from torch.distributed.run import get_args_parser

from athanor.base.errors import AthanorError
from athanor.cli import athanor
from athanor.recipes.launching.submit import job_name, submit_job
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe

SHARED = ("--store", "/shared/store")
CLAIMED = ("--image", "registry/athanor:1", "--claim", "disk")


def launch(*words: str) -> str:
    done = CliRunner().invoke(athanor, ["launch", "quickstart", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def check_torchrun(words: list[str], nodes: int, processes: int) -> Any:
    """What torch's own parser makes of a command; the words of `athanor run` in it make a plan that spreads."""
    assert words[0] == "torchrun"
    said = get_args_parser().parse_args(words[1:])
    assert (said.nnodes, said.nproc_per_node, said.module) == (str(nodes), str(processes), True)
    assert said.training_script == "athanor" and said.training_script_args[:2] == ["run", "quickstart"]
    overrides = [word for word in said.training_script_args[2:] if "=" in word]
    plan = {step.name: step.settings for step in plan_recipe(load_recipe("quickstart", overrides))}
    assert plan["pretrain"].engine == plan["finetune"].engine == "fsdp2"
    assert all(plan[name].rows >= nodes * processes for name in ("pretrain", "finetune")), "a row for each process"
    return said


def bash_accepts(text: str, tmp_path: Path) -> bool:
    path = tmp_path / "job.sh"
    path.write_text(text)
    return subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_slurm(tmp_path: Path) -> None:
    text = launch("--on", "slurm", "--nodes", "2", "--gpus", "8", "--hours", "1.5", "--partition", "long", *SHARED)
    assert bash_accepts(text, tmp_path)
    lines = text.splitlines()
    told = dict(
        line.removeprefix("#SBATCH --").split("=", 1) for line in lines if "=" in line and line[1:7] == "SBATCH"
    )
    assert (told["nodes"], told["ntasks-per-node"], told["gpus-per-node"]) == ("2", "1", "8")
    assert (told["time"], told["partition"], told["signal"]) == ("90", "long", "TERM@120")
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), "sbatch reads no directive after a command"
    words = shlex.split(lines[-1])
    said = check_torchrun(words[words.index("torchrun") :], 2, 8)
    assert (said.rdzv_endpoint, said.rdzv_id) == ("$head:29500", "$SLURM_JOB_ID")
    assert said.training_script_args[-2:] == ["--store", "/shared/store"]


def test_an_indexed_job_of_kubernetes() -> None:
    text = launch("--on", "k8s", "--nodes", "4", "--gpus", "8", "--hours", "2", *CLAIMED)
    service, job = yaml.safe_load_all(text)
    for row, model in ((service, models.IoK8sApiCoreV1Service), (job, models.IoK8sApiBatchV1Job)):
        assert model.from_dict(row).to_dict() == row, "the published schema has every field, and of this type"
    pod = job["spec"]["template"]["spec"]
    index = "$(JOB_COMPLETION_INDEX)"  # Kubernetes fills it in
    said = check_torchrun([word.replace(index, "3") for word in pod["containers"][0]["command"]], 4, 8)
    assert said.node_rank == 3
    host, _, domain = said.master_addr.partition(".")
    assert host == f"{job['metadata']['name']}-0" and domain == pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == said.training_script_args[-1]


def test_a_train_job_of_kubeflow() -> None:
    row = yaml.safe_load(launch("--on", "kubeflow", "--nodes", "2", "--gpus", "4", *CLAIMED))
    assert models.TrainerV1alpha1TrainJob.from_dict(row).to_dict() == row
    trainer = row["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert trainer["command"][:5] == ["torchrun", "-m", "athanor", "run", "quickstart"]


@pytest.mark.parametrize("kind", ["k8s", "kubeflow"])
def test_kubernetes_fills_in_nothing_that_the_user_wrote(kind: str) -> None:
    """https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container: $$( is a dollar."""
    text = launch("data.path=/a/$(JOB_COMPLETION_INDEX)/b c", "--on", kind, *CLAIMED)
    *_, job = yaml.safe_load_all(text)
    commands = [job["spec"]["trainer"]["command"]] if kind == "kubeflow" else [
        one["command"] for one in job["spec"]["template"]["spec"]["containers"]
    ]  # fmt: skip
    assert "data.path=/a/$$(JOB_COMPLETION_INDEX)/b c" in commands[0]


def test_a_program_for_ray() -> None:
    tree = ast.parse(launch("--on", "ray", "--nodes", "2", "--processes", "3", *SHARED))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign) and
              isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()}  # fmt: skip
    check_torchrun(ast.literal_eval(values["COMMAND"]), 2, 3)


def test_a_script_for_ssh(tmp_path: Path) -> None:
    text = launch("--on", "ssh", "--hosts", "anna,me@berta", "--gpus", "2", "--folder", "/a b", *SHARED)
    assert bash_accepts(text, tmp_path)
    started = [shlex.split(line) for line in text.splitlines() if line.startswith("ssh ")]
    assert [words[4] for words in started] == ["anna", "me@berta"]
    for number, words in enumerate(started):
        inner = shlex.split(words[5])
        assert inner[:2] == ["cd", "/a b"]
        said = check_torchrun(inner[inner.index("torchrun") :], 2, 2)
        assert (said.node_rank, said.master_addr) == (number, "anna")


def test_an_engine_that_was_named_stays() -> None:
    text = launch("pretrain.engine=ddp", "--on", "ray", "--engine", "tensor", *SHARED)
    assert (
        "'pretrain.engine=ddp'" in text and "'finetune.engine=tensor'" in text and "pretrain.engine=tensor" not in text
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--on", "slurm"), "needs --store"),
        (("--on", "k8s", "--claim", "a"), "needs --image"),
        (("--on", "k8s", *CLAIMED, *SHARED), "--store has no meaning"),
        (("--on", "ssh", *SHARED), "needs --hosts"),
        (("--on", "ssh", "--hosts", "a,b", "--nodes", "3", *SHARED), "--nodes 3 with 2 hosts"),
        (("--on", "ray", "--partition", "x", *SHARED), "--partition has no meaning"),
        (("--on", "ray", "pretrain.nonsense=3", *SHARED), "nonsense"),
        (("--on", "ssh", "--hosts", ",", *SHARED), "--hosts ,"),
        (("--on", "ssh", "--hosts", "-oProxyCommand=x", *SHARED), "--hosts -o"),
        (("--on", "slurm", "--hours", "nan", *SHARED), "--hours nan"),
        (("--on", "slurm", "--engine", "deepspeed", *SHARED), "engine=deepspeed with optimizer=muon"),
        (("--on", "slurm", "--engine", "tensor", "--gpus", "7", *SHARED), "among processes=7"),
        (("--on", "slurm", "--partition", "a\n#SBATCH --x", *SHARED), "--partition"),
        (("--on", "k8s", "--image", "i", "--claim", "My_Claim"), "--claim 'My_Claim'"),
        (("--on", "slurm", "--gpus", "8", "pretrain.rows=7", *SHARED), "rows=7 for 8 pieces"),
    ],
)
def test_what_is_missing_or_too_much_is_refused(words: tuple[str, ...], expected: str) -> None:
    with pytest.raises(AthanorError) as caught:
        CliRunner().invoke(athanor, ["launch", "quickstart", *words], catch_exceptions=False, standalone_mode=False)
    assert expected in str(caught.value)


def test_submitting_without_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for kind, program in {"slurm": "sbatch", "k8s": "kubectl", "ray": "ray", "ssh": "ssh"}.items():
        with pytest.raises(AthanorError, match=f"needs {program}"):
            submit_job(kind, "x")
    assert not list(tmp_path.iterdir()), "nothing is written for nothing"


def test_a_job_is_called_after_its_recipe() -> None:
    assert job_name("~/My Recipes/Größer_2.yaml") == "athanor-gr-er-2"
