"""A network to be traced, its ONNX graph on the disk, and that graph in onnxruntime; numbers are float32."""

import importlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError

LARGEST_FILE = 1_500_000_000  # bytes of weights in the graph's own file; a protocol buffer may have 2 GB
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Graph:
    """A network with inputs to trace it by.

    Attributes:
        name: of the file, without its ending.
        inputs: by name, in the order of `network.forward`'s arguments.
        free: the axes of the inputs that may have any length, and what it is called.
        outputs: their names.
        trials: inputs of other lengths, to compare on; none where the caller has better ones.
    """

    name: str
    network: nn.Module
    inputs: Inputs
    free: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    trials: tuple[Inputs, ...] = ()


def texts(rows: int, length: int, vocabulary: int, end: int | None = None) -> Inputs:
    """Random ids, always the same, each row one token shorter than the one before; `end` is the last of each row."""
    ids_BT = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(rows))
    lengths_B1 = (length - torch.arange(rows)[:, None]).clamp_min(1)
    if end is not None:
        ids_BT = ids_BT.masked_fill(ids_BT == end, (end + 1) % vocabulary).scatter(1, lengths_B1 - 1, end)
    return {"input_ids": ids_BT, "attention_mask": (torch.arange(length) < lengths_B1).long()}


def require_libraries(*names: str) -> None:
    """Refuse where a library of the extra `onnx` is missing.

    Raises:
        AthanorError: says what to install.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as problem:
            raise AthanorError(
                f"ONNX needs the package {name}, which is not installed", fix='pip install "athanor[onnx]"'
            ) from problem


@torch.no_grad()
def write_graph(graph: Graph, folder: Path) -> Path:
    """Trace a network and write its graph; large weights go into a file of their own beside it.

    Raises:
        AthanorError: a library is missing.
    """
    require_libraries("onnx", "onnxscript")
    given = [name for name in graph.inputs if not name.startswith("past")]
    past = [name for name in graph.inputs if name.startswith("past")]
    free = {name: {axis: torch.export.Dim.DYNAMIC for axis in axes} for name, axes in graph.free.items()}
    shapes = {**{name: free[name] for name in given}, **({"past": tuple(free[name] for name in past)} if past else {})}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of libraries that no network of ours uses
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.network, tuple(graph.inputs.values()), dynamo=True, dynamic_shapes=shapes, verbose=False,
                input_names=list(graph.inputs), output_names=list(graph.outputs),
            )  # fmt: skip
    finally:
        log.setLevel(level)
    for found in program.model.graph.inputs:
        for axis, name in graph.free[found.name].items():
            found.shape[axis] = name
    path = folder / f"{graph.name}.onnx"
    size = sum(parameter.nbytes for parameter in graph.network.parameters())
    program.save(path, external_data=size > LARGEST_FILE)
    return path


class Session:
    """A graph in onnxruntime, on the CPU.

    Raises:
        AthanorError: onnxruntime is missing.
    """

    def __init__(self, path: Path):
        require_libraries("onnxruntime")
        import onnxruntime

        self.version = onnxruntime.__version__
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Inputs:
        """Outputs by name. An input that the network does not look at, such as places, may have left the graph."""
        given = {name: tensor.numpy() for name, tensor in inputs.items() if name in self.inputs}
        found = self.session.run(None, given)
        return {name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}
