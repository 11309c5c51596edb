"""Encoders of text: one row per family, and what they call their tensors."""

from athanor.models.families.family import LAYER_NORM_BIASES, Family, Weight, with_biases
from athanor.models.masked import EncoderConfig, TextEncoder

BERT_SETTINGS = {
    "vocab_size": "trunk.vocabulary",
    "hidden_size": "trunk.width",
    "num_hidden_layers": "trunk.layers",
    "num_attention_heads": "trunk.heads",
    "intermediate_size": "trunk.hidden",
    "max_position_embeddings": "trunk.max_positions",
    "layer_norm_eps": "trunk.norm_eps",
    "type_vocab_size": "segments",
}
BERT_OPTIONAL = {
    "vocab_size": 30_522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3_072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
BERT_FIXED = {
    "trunk.causal": False,
    "trunk.position": "learned",
    "trunk.norm_place": "after",
    **{f"trunk.{name}": value for name, value in LAYER_NORM_BIASES.items()},
}
BERT_ACTIVATIONS = ("trunk.mlp", {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"})
BERT_REQUIRED = {"is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True}


def bert_layers(place: str) -> tuple[Weight, ...]:
    """The tensors of BERT's front and layers, under the name its encoder has in a checkpoint ('bert.')."""
    front, layer = place + "embeddings.", place + "encoder.layer.{}."
    parts = tuple(layer + f"attention.self.{name}" for name in ("query", "key", "value"))
    return (
        Weight("tokens.weight", (front + "word_embeddings.weight",)),
        Weight("positions.weight", (front + "position_embeddings.weight",)),
        Weight("segments.weight", (front + "token_type_embeddings.weight",)),
        *(
            Weight(f"trunk.blocks.{{}}.attention.qkv.{part}", tuple(f"{name}.{part}" for name in parts))
            for part in ("weight", "bias")
        ),
        *with_biases(
            (
                ("norm", front + "LayerNorm"),
                ("trunk.blocks.{}.attention.out", layer + "attention.output.dense"),
                ("trunk.blocks.{}.attention_norm", layer + "attention.output.LayerNorm"),
                ("trunk.blocks.{}.mlp.up", layer + "intermediate.dense"),
                ("trunk.blocks.{}.mlp.down", layer + "output.dense"),
                ("trunk.blocks.{}.mlp_norm", layer + "output.LayerNorm"),
            )
        ),
    )


BERT_HEAD = (
    Weight("guess.bias", ("cls.predictions.bias",)),
    *with_biases(
        (
            ("guess.product", "cls.predictions.transform.dense"),
            ("guess.norm", "cls.predictions.transform.LayerNorm"),
        )
    ),
)


def head_copies(place: str) -> dict[str, str]:
    """What may be stored a second time, because the head shares it with the embedding."""
    return {
        "cls.predictions.decoder.weight": place + "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


MASKED = (
    Family(
        name="bert",
        architecture="BertForMaskedLM",
        config=EncoderConfig,
        build=TextEncoder,
        settings=BERT_SETTINGS,
        fixed={**BERT_FIXED, "predicts": True, "pooled": False, "tasks": None, "first_position": 0},
        required=BERT_REQUIRED,
        optional=BERT_OPTIONAL,
        choices={"hidden_act": BERT_ACTIVATIONS},
        tensors=(*bert_layers("bert."), *BERT_HEAD),
        copies=head_copies("bert."),
        derived=("embeddings.position_ids",),
    ),
    Family(
        name="bert-encoder",
        model_type="bert",
        architecture="BertModel",
        config=EncoderConfig,
        build=TextEncoder,
        settings=BERT_SETTINGS,
        fixed={**BERT_FIXED, "predicts": False, "pooled": True, "tasks": None, "first_position": 0},
        required=BERT_REQUIRED,
        optional=BERT_OPTIONAL,
        choices={"hidden_act": BERT_ACTIVATIONS},
        tensors=(*bert_layers(""), *with_biases((("pooler", "pooler.dense"),))),
        derived=("embeddings.position_ids",),
    ),
    Family(
        name="ernie",
        architecture="ErnieForMaskedLM",
        config=EncoderConfig,
        build=TextEncoder,
        settings=BERT_SETTINGS,
        fixed={**BERT_FIXED, "predicts": True, "pooled": False, "tasks": None, "first_position": 0},
        required={**BERT_REQUIRED, "use_task_id": False},
        optional=BERT_OPTIONAL,
        ignored=("task_type_vocab_size",),
        choices={"hidden_act": BERT_ACTIVATIONS},
        tensors=(*bert_layers("ernie."), *BERT_HEAD),
        copies=head_copies("ernie."),
        derived=("embeddings.position_ids",),
    ),
    Family(
        name="ernie-tasks",
        model_type="ernie",
        architecture="ErnieForMaskedLM",
        marks=("use_task_id",),
        config=EncoderConfig,
        build=TextEncoder,
        settings={**BERT_SETTINGS, "task_type_vocab_size": "tasks"},
        fixed={**BERT_FIXED, "predicts": True, "pooled": False, "first_position": 0},
        required={**BERT_REQUIRED, "use_task_id": True},
        optional={**BERT_OPTIONAL, "task_type_vocab_size": 3},
        choices={"hidden_act": BERT_ACTIVATIONS},
        tensors=(
            *bert_layers("ernie."),
            *BERT_HEAD,
            Weight("tasks.weight", ("ernie.embeddings.task_type_embeddings.weight",)),
        ),
        copies=head_copies("ernie."),
        derived=("embeddings.position_ids",),
    ),
)
