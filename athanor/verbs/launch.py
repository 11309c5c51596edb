"""athanor launch: a run on a cluster."""

from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import store_option

EXAMPLE = """\b
Example:  athanor launch quickstart --on slurm --nodes 2 --gpus 8 --store /shared/store
          athanor launch quickstart --on k8s --image registry/athanor:1 --claim store --nodes 4 --gpus 8
          athanor launch quickstart --on ray --nodes 2 --gpus 8 --store /shared/store --submit
          athanor launch quickstart --on ssh --hosts anna,berta --gpus 2 --store /shared/store > go.sh
"""


@click.command(epilog=EXAMPLE)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[STEP.KEY=VALUE]...")
@click.option("--on", "kind", required=True, type=click.Choice(["slurm", "k8s", "kubeflow", "ray", "ssh"]),
              help=say("what starts jobs there; kubeflow: a TrainJob, k8s: a plain Job", "集群的作业系统"))  # fmt: skip
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help=say("machines", "机器数"))
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help=say("of each", "每台 GPU 数"))
@click.option("--processes", type=click.IntRange(min=1),
              help=say("of each machine (default: one per GPU, else one)", "每台进程数"))  # fmt: skip
@click.option("--cores", type=click.IntRange(min=1), default=8, show_default=True, help=say("of each", "每台核数"))
@click.option("--hours", type=click.FloatRange(min=0.1), help=say("longest time", "最长时间（小时）"))
@click.option(
    "--engine",
    type=click.Choice(["ddp", "fsdp2", "tensor", "context", "deepspeed"]),
    default="fsdp2",
    show_default=True,
    help=say("for every step that trains and names none", "训练步骤所用引擎"),
)
@click.option("--scale", help=say("the one dial: how big everything is", "唯一的旋钮：整体规模"))
@click.option("--partition", help=say("slurm: where to queue", "slurm 分区"))
@click.option("--image", help=say("k8s, kubeflow: container image with athanor", "容器镜像"))
@click.option("--claim", help=say("k8s, kubeflow: claim of the volume for the store", "存储卷声明"))
@click.option("--hosts", help=say("ssh: names, with commas", "ssh 主机，以逗号分隔"))
@click.option("--folder", default=".", show_default=True, help=say("ssh: where to start", "ssh 起始目录"))
@click.option("--submit", is_flag=True, help=say("hand it to the cluster's own client", "立即提交"))
@store_option
def command(recipe: str, overrides: tuple[str, ...], kind: str, submit: bool, **options: Any) -> None:
    """Write the job that runs RECIPE on a cluster, and with --submit hand it in.

    It is printed, to be read, kept and changed; every machine runs the same `athanor run` under torchrun.
    """
    from athanor.recipes.launching.submit import submit_job, write_job

    text = write_job(kind, recipe, overrides, **options)
    if kind in ("k8s", "kubeflow") and recipe.endswith((".yaml", ".yml")):
        click.echo(say(f"the image must hold {recipe} at this path", f"镜像中须在此路径包含 {recipe}"), err=True)
    click.echo(text, nl=False)
    if submit:
        click.echo(submit_job(kind, text), err=True)
