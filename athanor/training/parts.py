"""The tensors of a checkpoint, written and read by several processes: each its own parts, through torch's DCP.

`torch.distributed.checkpoint` knows a tensor as a set of boxes, and reads any box out of those that were written. What
a process holds is one box per section of a `Cut`; so a checkpoint of one engine is read by any other, with any number
of processes. Of a tensor that all hold whole, one of them writes the box.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from athanor.training.engines.cut import Cut
from athanor.training.engines.engine import Engine, owner_of

METADATA = ".metadata"  # what DCP calls the file that lists all boxes


def boxes(cut: Cut | None, place: int, part: Tensor) -> Iterator[tuple[ChunkStorageMetadata, Tensor]]:
    """Where each section of a part stands in the whole, and its numbers."""
    if cut is None:
        yield ChunkStorageMetadata(torch.Size([0] * part.dim()), part.shape), part
        return
    done = 0
    for first, last in cut.spans(place):
        if last > first:
            section = part.narrow(cut.axis, done, last - first)
            offsets = [first if axis == cut.axis else 0 for axis in range(part.dim())]
            yield ChunkStorageMetadata(torch.Size(offsets), section.shape), section
        done += last - first


class Boxes:
    """The boxes of this process, by tensor and offset; whole shapes beside them."""

    def __init__(self, parts: Mapping[str, Tensor], engine: Engine):
        self.found: dict[tuple[str, torch.Size], Tensor] = {}
        self.listed: dict[str, list[ChunkStorageMetadata]] = {}
        self.shapes: dict[str, torch.Size] = {}
        for name, part in parts.items():
            cut = engine.cuts.get(owner_of(name)) if part.dim() else None
            shape = list(part.shape)
            if cut is not None:
                shape[cut.axis] = sum(cut.sections)
            self.shapes[name], self.listed[name] = torch.Size(shape), []
            for box, section in boxes(cut, engine.place, part):
                self.listed[name].append(box)
                self.found[name, box.offsets] = section

    def __getitem__(self, index: MetadataIndex) -> Tensor:
        assert index.offset is not None
        return self.found[index.fqn, index.offset]


class SaveBoxes(dcp.DefaultSavePlanner):
    """Writes the boxes of every process; of equal ones, one."""

    def __init__(self, parts: Mapping[str, Tensor], engine: Engine):
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.boxes = Boxes(parts, engine)

    def create_local_plan(self) -> SavePlan:
        return SavePlan(
            [
                WriteItem(
                    MetadataIndex(name, box.offsets),
                    WriteItemType.SHARD,
                    tensor_data=TensorWriteData(
                        box,
                        TensorProperties.create_from_tensor(self.boxes.found[name, box.offsets]),
                        self.boxes.shapes[name],
                    ),
                )
                for name, listed in self.boxes.listed.items()
                for box in listed
            ]
        )

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.boxes[index]


class LoadBoxes(dcp.DefaultLoadPlanner):
    """Fills the boxes of this process."""

    def __init__(self, parts: Mapping[str, Tensor], engine: Engine):
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.boxes = Boxes(parts, engine)

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        stored = self.metadata.state_dict_metadata
        items = [create_read_items_for_chunk_list(name, stored[name], box) for name, box in self.boxes.listed.items()]
        return LoadPlan([item for some in items for item in some])

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.boxes[index]


def write_parts(folder: Path, parts: Mapping[str, Tensor], engine: Engine, group: dist.ProcessGroup) -> list[str]:
    """Write what this process holds, together with the others of the group; returns the names of its files.

    Raises:
        CheckpointException: some process could not write; it derives from BaseException.
    """
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    dcp.save(dict(parts), storage_writer=writer, planner=SaveBoxes(parts, engine), process_group=group)
    mine = [path.name for path in sorted(folder.glob(f"__{engine.place}_*"))]
    return [*mine, METADATA] if engine.first else mine


def read_parts(folder: Path, engine: Engine) -> dict[str, Tensor]:
    """The part of every tensor that this process holds; by itself, without the others."""
    reader = dcp.FileSystemReader(folder)
    parts: dict[str, Tensor] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        shape: list[Any] = list(stored.size)
        cut = engine.cuts.get(owner_of(name)) if shape else None
        if cut is not None:
            shape[cut.axis] = cut.length(engine.place)
        parts[name] = torch.empty(shape, dtype=stored.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")  # it says that it reads alone, as it should
        dcp.load(dict(parts), storage_reader=reader, planner=LoadBoxes(parts, engine), no_dist=True)
    return parts
