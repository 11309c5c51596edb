"""Leaving as ONNX: graphs, and for language models the tokenizer beside them, each run again in onnxruntime.

Numbers are float32, and the difference from the network is measured on the fixed prompts, padded and with the cache, or
on random inputs of several sizes. It may be LARGEST times the largest number that the network gives, at least LARGEST.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

import athanor
from athanor.base.errors import EXIT_REFUSED, AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.inference import equivalence
from athanor.inference.equivalence import Behaviour
from athanor.inference.onnx import OnnxWriter, graphs_of
from athanor.inference.onnx_graph import Graph, Session, require_libraries, write_graph
from athanor.models.convert import load_checkpoint, load_network, read_object
from athanor.models.language import LanguageModel
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.settings import read_config
from athanor.models.speech import SpeechModel
from athanor.tokens.chat import generation_of, jinja_of
from athanor.tokens.tokenizer import Tokenizer

LARGEST = 1e-4
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def writes_text(folder: Path) -> bool:
    """Whether a folder holds a language model, which has a tokenizer beside it."""
    record = read_object(folder / "config.json")
    record.pop("quantization_config", None)
    return read_config(record, str(folder / "config.json"))[0].build is LanguageModel


def refuse_large(parameters: int) -> None:
    """Refuse what the tracing of a graph would need too much memory for.

    Raises:
        AthanorError: more weights than `equivalence.SMALL`.
    """
    if parameters > equivalence.SMALL:
        raise AthanorError(
            f"{parameters:,} weights: a graph is traced and compared in memory, in float32",
            allowed=f"up to {equivalence.SMALL:,} weights", fix="athanor export --to hf, or --to gguf",
        )  # fmt: skip


def write_language_model(dense: Path, tokenizer: Tokenizer, result: Path, progress: Progress) -> dict[str, Any]:
    """The graph of a language model with its tokenizer; the part of the receipt that says how equal it is.

    Raises:
        AthanorError: a library is missing, or a kind of network that has no graph; exit code 3: it is not equal.
    """
    require_libraries(*LIBRARIES)
    progress.start("tracing the network", None, "")
    model = load_checkpoint(dense, torch.float32)
    (graph,) = graphs_of(model)
    path = write_graph(graph, result)
    shutil.copyfile(dense / "config.json", result / "config.json")
    write_json(result / "generation_config.json", generation_of(dense, tokenizer))
    tokenizer.save(result, jinja_of(tokenizer))
    progress.start("running it in onnxruntime and comparing", None, "")
    prompts = equivalence.prompts_for(model.config, tokenizer)
    before = equivalence.observe(model, tokenizer)
    session = Session(path)
    writer = OnnxWriter(session, model)
    answers = writer.answers(
        prompts, equivalence.ANSWER_TOKENS, equivalence.ends_of(tokenizer), known=len(tokenizer.token_bytes())
    )
    logits = equivalence.compare_behaviour(before, Behaviour(writer.logits(prompts), answers))
    refuse_unequal(logits["max_logit_difference"], max(float(row.abs().max()) for row in before.logits), path.name)
    written = Tokenizer.load(result)
    return {
        **described([graph], [session]),
        "logits": logits,
        "token_ids": equivalence.compare_tokenizers(tokenizer, written),
        "chat_template": equivalence.compare_template(tokenizer, written.chat_template, written),
    }


def write_network(folder: Path, result: Path, progress: Progress) -> dict[str, Any]:
    """The graphs of any other network: an encoder, pictures, CLIP's two towers, or the two sides of an encoder-decoder,
    which has its tokenizer beside it.

    Raises:
        AthanorError: see `write_language_model`.
    """
    require_libraries(*LIBRARIES)
    progress.start("tracing the network", None, "")
    model = load_network(folder, torch.float32).eval()
    refuse_large(sum(parameter.numel() for parameter in model.parameters()))
    graphs = graphs_of(model)
    paths = [write_graph(graph, result) for graph in graphs]
    shutil.copyfile(folder / "config.json", result / "config.json")
    if isinstance(model, EncoderDecoder | SpeechModel):
        tokenizer = Tokenizer.load(folder)
        write_json(result / "generation_config.json", generation_of(folder, tokenizer))
        tokenizer.save(result)
    progress.start("running it in onnxruntime and comparing", None, "")
    sessions = [Session(path) for path in paths]
    differences = {}
    for graph, session, path in zip(graphs, sessions, paths, strict=True):
        differences[path.name] = difference(graph, session)
    return {
        "format": "onnx", "type": "F32", "athanor": athanor.__version__, "torch": torch.__version__,
        "source": {"model": folder.name}, **described(graphs, sessions), "differences": differences,
    }  # fmt: skip


@torch.no_grad()
def difference(graph: Graph, session: Session) -> dict[str, Any]:
    """How far what onnxruntime computes is from the network, on inputs of several sizes.

    Raises:
        AthanorError (exit code 3): too far.
    """
    farthest = 0.0
    for inputs in graph.trials:
        expected = graph.network(*inputs.values())
        expected = (expected,) if isinstance(expected, torch.Tensor) else expected
        found = session(inputs)
        for name, tensor in zip(graph.outputs, expected, strict=True):
            apart = float((found[name] - tensor).abs().max())
            refuse_unequal(apart, float(tensor.abs().max()), f"{graph.name}.onnx: {name}")
            farthest = max(farthest, apart)
    sizes = [{name: list(tensor.shape) for name, tensor in inputs.items()} for inputs in graph.trials]
    return {"inputs": sizes, "max_difference": farthest}


def refuse_unequal(apart: float, largest: float, what: str) -> None:
    """Refuse a graph that does not compute what the network does; a number that is none is refused too."""
    allowed = LARGEST * max(1.0, largest)
    if not apart <= allowed:
        raise AthanorError(
            f"the result was refused: {what} differs by {apart:.3g}", allowed=f"{allowed:.3g}", code=EXIT_REFUSED
        )


def described(graphs: list[Graph], sessions: list[Session]) -> dict[str, Any]:
    """What the files take and give, and what ran them."""
    return {
        "how": f"the files were run by onnxruntime {sessions[0].version} on the CPU",
        "graphs": {
            f"{graph.name}.onnx": {
                "inputs": session.inputs, "outputs": session.outputs,
                "free_axes": {name: list(axes.values()) for name, axes in graph.free.items()},
            }
            for graph, session in zip(graphs, sessions, strict=True)
        },
    }  # fmt: skip
