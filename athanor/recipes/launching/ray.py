"""Ray: a program for `ray job submit` that holds a place on every machine and starts torchrun there."""

from athanor.recipes.launching.plan import ENVIRONMENT, PORT, Launch

PROGRAM = '''"""Started by: ray job submit --working-dir . -- python {name}.py"""

import os
import subprocess

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NODES, RESOURCES = {nodes}, {resources}
COMMAND = {command}
ENVIRONMENT = {environment}


@ray.remote
def address() -> str:
    return ray.util.get_node_ip_address()


@ray.remote(max_retries=0)
def train(number: int, head: str) -> None:
    where = ["--node-rank", str(number), "--master-addr", head, "--master-port", "{port}"]
    words = [*COMMAND[:1], *where, *COMMAND[1:]]
    subprocess.run(words, check=True, env={{**os.environ, **ENVIRONMENT}})


ray.init()
group = placement_group([RESOURCES] * NODES, strategy="STRICT_SPREAD")
ray.get(group.ready())
places = [
    PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number) for number in range(NODES)
]
head = ray.get(address.options(num_cpus=0, scheduling_strategy=places[0]).remote())
cores, gpus = RESOURCES["CPU"], RESOURCES.get("GPU", 0)
ray.get([
    train.options(num_cpus=cores, num_gpus=gpus, scheduling_strategy=place).remote(number, head)
    for number, place in enumerate(places)
])
'''


def ray_program(launch: Launch) -> str:
    """One task per machine; the first machine is where all meet."""
    resources = {"CPU": launch.cores} | ({"GPU": launch.gpus} if launch.gpus else {})
    return PROGRAM.format(
        name=launch.name, nodes=launch.nodes, resources=resources, command=launch.torchrun(), port=PORT,
        environment=ENVIRONMENT,
    )  # fmt: skip
