"""The model card of an exported model, written from its lineage: what it is, what it read, how well it does.

The head is the one Hugging Face reads (https://huggingface.co/docs/hub/model-cards). Paths of the owner's disk are left
out: a card is made to be published.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import athanor
from athanor.base.errors import AthanorError
from athanor.base.tables import quantity, size
from athanor.data.funnel import read_funnel
from athanor.store.artifact import Artifact, Store

UNKNOWN_LICENCE = "unknown"
LANGUAGES = ("en", "zh")


def model_card(
    name: str, artifact: Artifact | None, config: Mapping[str, Any], parameters: int, licence: str | None,
    chats: bool = True,
) -> str:  # fmt: skip
    """README.md of a model.

    Args:
        artifact: its record in the store, with its ancestors around it; None: only the checkpoint is known.
        config: its config.json.
        parameters: how many weights it has.
        licence: an identifier such as apache-2.0; None: nobody stated one.
        chats: whether it has a chat template.
    """
    family = line(artifact) if artifact else []
    evaluations = list(evaluations_of(artifact)) if artifact else []
    parts = [
        front(licence, evaluations),
        f"# {name}\n\nA {config['model_type']} language model of {quantity(parameters)} parameters, exported by "
        f"Athanor {athanor.__version__}. This card is written from the records of the run that made the model.",
        use(config, chats),
        data(family),
        training(family),
        evaluation(evaluations),
        "## Limits\n\nThe model says what its training text makes likely. The figures above are all that was measured: "
        "nothing is known about safety, bias, or any language and task not named there.",
        f"## Licence\n\n{licence or 'Nobody has stated a licence for this model: ask its owner before using it.'}",
        lineage(family),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def line(artifact: Artifact) -> list[Artifact]:
    """The artifact and everything it was made from that is still in the store, ancestors first, each once."""
    store = Store(artifact.path.parent.parent)
    found: dict[str, Artifact] = {}

    def visit(one: Artifact) -> None:
        for parent in one.record["parents"].values():
            if parent not in found and store.has(parent):
                visit(store.get(parent))
        found.setdefault(one.id, one)

    visit(artifact)
    return list(found.values())


def evaluations_of(artifact: Artifact) -> Iterator[tuple[str, Artifact]]:
    """Every evaluation in the store that judged this model, with the role it had there."""
    for other in Store(artifact.path.parent.parent).all():
        if other.kind == "evaluation":
            yield from ((role, other) for role, parent in other.record["parents"].items() if parent == artifact.id)


def front(licence: str | None, evaluations: list[tuple[str, Artifact]]) -> str:
    """The YAML head."""
    known = {name for _, one in evaluations for name in one.measurements}
    languages = [name for name in LANGUAGES if any(f"accuracy_{name}_" in key for key in known)]
    rows = [f"license: {licence or UNKNOWN_LICENCE}", "library_name: transformers", "pipeline_tag: text-generation"]
    rows += [f"language: [{', '.join(languages)}]"] if languages else []
    return "---\n" + "\n".join([*rows, "tags: [athanor]"]) + "\n---"


def use(config: Mapping[str, Any], chats: bool) -> str:
    """How to run it, and its shape."""
    prompt = (
        'messages = [{"role": "user", "content": "Who are you?"}]\n'
        'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")\n'
        if chats
        else 'prompt = tokenizer("The history of the world", return_tensors="pt")\n'
    )
    again = "Or `athanor chat FOLDER`, `athanor serve FOLDER`." if chats else "Or `athanor serve FOLDER`."
    shape = [("family", config["model_type"]), ("vocabulary", config.get("vocab_size")),
             ("context", config.get("max_position_embeddings", config.get("n_positions"))),
             ("layers", config.get("num_hidden_layers", config.get("n_layer"))),
             ("width", config.get("hidden_size", config.get("n_embd"))),
             ("stored in", config.get("dtype"))]  # fmt: skip
    return (
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\nmodel = AutoModelForCausalLM.from_pretrained(".")\n'
        f"{prompt}print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))\n```\n\n"
        f"{again}\n\n" + table(("", ""), shape)
    )


def data(family: list[Artifact]) -> str:
    """Where the text came from and what the funnel let through."""
    rows, sources = [], []
    for one in family:
        path = str(one.record["settings"].get("path", ""))
        if one.kind == "documents":
            known = "the text that every Python installation carries" if path == "python:" else "the owner's own files"
            sources.append(f"`{one.record['step']}`: {known}")
        try:
            funnel = read_funnel(one.path) if "funnel.json" in one.record["files"] else []
        except (OSError, AthanorError):
            funnel = []
        rows += [
            (one.record["name"], row["stage"], f"{row['in']:,}", f"{row['out']:,}", size(row["bytes_out"]))
            for row in funnel
        ]
    if not rows:
        return "## Data\n\nNothing is recorded about what this model read."
    return f"## Data\n\nSources: {'; '.join(sources) or 'not recorded'}.\n\n" + table(
        ("step", "stage", "in", "out", "bytes out"), rows
    )


def training(family: list[Artifact]) -> str:
    """Every step with its settings, paths left out."""
    rows = []
    for one in family:
        settings = {key: value for key, value in one.record["settings"].items() if key != "path" and value is not None}
        rows.append((one.record["name"], ", ".join(f"{key}={value}" for key, value in settings.items()) or "–"))
    return "## Settings of every step\n\n" + table(("step", "settings"), rows) if rows else ""


def evaluation(evaluations: list[tuple[str, Artifact]]) -> str:
    """The figures of the examinations this model sat."""
    rows = [
        (name.removesuffix(f"_{role}").replace("_", " "), value)
        for role, one in evaluations
        for name, value in one.measurements.items()
        if name.endswith(f"_{role}") or name == "lzma_bits_per_byte"
    ]
    if not rows:
        return "## Evaluation\n\nThis model was not evaluated."
    names = ", ".join(f"`{one.id}`" for _, one in evaluations)
    return f"## Evaluation\n\nHeld-out documents and problems, {names}.\n\n" + table(("figure", "value"), rows)


def lineage(family: list[Artifact]) -> str:
    """The names under which everything can be found and verified again."""
    rows = [(f"`{one.id}`", one.record["step"], f"`{one.record['code']}`") for one in family]
    return "## Lineage\n\n" + table(("artifact", "step", "code"), rows) if rows else ""


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)
