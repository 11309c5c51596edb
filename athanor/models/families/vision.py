"""Networks that see: residual networks and Swin of both versions, one row per family."""

from athanor.models.families.family import Family, Weight, with_biases
from athanor.models.vision.resnet import ResNet, ResNetConfig
from athanor.models.vision.swin import Swin, SwinConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
BACKBONE_KEYS = ("out_features", "out_indices", "stage_names")  # which maps their backbone classes hand out
NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def conv_norm(ours: str, theirs: str) -> tuple[Weight, ...]:
    """A convolution and its batch normalisation."""
    return (
        Weight(f"{ours}.conv.weight", (f"{theirs}.convolution.weight",)),
        *(Weight(f"{ours}.norm.{part}", (f"{theirs}.normalization.{part}",)) for part in NORM_PARTS),
    )


RESNET_LAYER = "resnet.encoder.stages.{}.layers.{}."
RESNET_TENSORS = (
    *conv_norm("stem", "resnet.embedder.embedder"),
    *conv_norm("stages.{}.{}.convs.{}", RESNET_LAYER + "layer.{}"),
    *conv_norm("stages.{}.{}.shortcut", RESNET_LAYER + "shortcut"),
    *with_biases((("head", "classifier.1"),)),
)


def swin_tensors(name: str) -> tuple[Weight, ...]:
    """What both versions share; `name` is the part their names begin with."""
    ours, theirs = "stages.{}.blocks.{}.", name + ".encoder.layers.{}.blocks.{}."
    return (
        Weight("stages.{}.merge.reduce.weight", (name + ".encoder.layers.{}.downsample.reduction.weight",)),
        Weight(
            ours + "attention.qkv.weight",
            tuple(f"{theirs}attention.self.{part}.weight" for part in ("query", "key", "value")),
        ),
        *with_biases(
            (
                ("patches", name + ".embeddings.patch_embeddings.projection"),
                ("patch_norm", name + ".embeddings.norm"),
                ("stages.{}.merge.norm", name + ".encoder.layers.{}.downsample.norm"),
                (ours + "attention_norm", theirs + "layernorm_before"),
                (ours + "attention.out", theirs + "attention.output.dense"),
                (ours + "mlp_norm", theirs + "layernorm_after"),
                (ours + "mlp.up", theirs + "intermediate.dense"),
                (ours + "mlp.down", theirs + "output.dense"),
                ("norm", name + ".layernorm"),
                ("head", "classifier"),
            )
        ),
    )


OURS, V1, V2 = (
    "stages.{}.blocks.{}.attention.",
    "swin.encoder.layers.{}.blocks.{}.attention.self.",
    "swinv2.encoder.layers.{}.blocks.{}.attention.self.",
)
SWIN_TENSORS = (
    *swin_tensors("swin"),
    Weight(OURS + "qkv.bias", tuple(f"{V1}{part}.bias" for part in ("query", "key", "value"))),
    Weight(OURS + "bias.table", (V1 + "relative_position_bias_table",)),
)
SWINV2_TENSORS = (
    *swin_tensors("swinv2"),
    Weight(OURS + "q_bias", (V2 + "query.bias",)),
    Weight(OURS + "v_bias", (V2 + "value.bias",)),
    Weight(OURS + "scale", (V2 + "logit_scale",)),
    *with_biases(((OURS + "bias.up", V2 + "continuous_position_bias_mlp.0"),)),
    Weight(OURS + "bias.down.weight", (V2 + "continuous_position_bias_mlp.2.weight",)),
)
SWIN_SETTINGS = {
    "image_size": "image_size",
    "patch_size": "patch",
    "num_channels": "channels",
    "embed_dim": "stem_width",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "bias_qkv",
    "drop_path_rate": "drop_path",
    "layer_norm_eps": "norm_eps",
    "num_labels": "classes",
}
SWIN_OPTIONAL = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "drop_path_rate": 0.1,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "num_labels": 2,
}
SWIN_REQUIRED = {"use_absolute_embeddings": False, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SWIN_IGNORED = (*BACKBONE_KEYS, "encoder_stride", "hidden_size", "num_layers", "path_norm")

VISION = (
    Family(
        name="resnet",
        architecture="ResNetForImageClassification",
        config=ResNetConfig,
        build=ResNet,
        settings={
            "num_channels": "channels",
            "embedding_size": "stem_width",
            "hidden_sizes": "widths",
            "depths": "depths",
            "downsample_in_first_stage": "first_stage_halves",
            "downsample_in_bottleneck": "halve_early",
            "num_labels": "classes",
        },
        optional={
            "num_channels": 3,
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048],
            "depths": [3, 4, 6, 3],
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
            "layer_type": "bottleneck",
            "hidden_act": "relu",
            "num_labels": 2,
        },
        choices={
            "layer_type": ("block", {"basic": "basic", "bottleneck": "bottleneck"}),
            "hidden_act": ("activation", ACTIVATIONS),
        },
        ignored=BACKBONE_KEYS,
        tensors=RESNET_TENSORS,
    ),
    Family(
        name="swin",
        architecture="SwinForImageClassification",
        config=SwinConfig,
        build=Swin,
        settings=SWIN_SETTINGS,
        fixed={"version": "v1"},
        required=SWIN_REQUIRED,
        optional=SWIN_OPTIONAL,
        choices={"hidden_act": ("activation", ACTIVATIONS)},
        ignored=SWIN_IGNORED,
        tensors=SWIN_TENSORS,
        derived=(".attention.self.relative_position_index",),
    ),
    Family(
        name="swinv2",
        architecture="Swinv2ForImageClassification",
        config=SwinConfig,
        build=Swin,
        settings={**SWIN_SETTINGS, "pretrained_window_sizes": "pretrained_windows"},
        fixed={"version": "v2"},
        required=SWIN_REQUIRED,
        optional={**SWIN_OPTIONAL, "pretrained_window_sizes": [0, 0, 0, 0]},
        choices={"hidden_act": ("activation", ACTIVATIONS)},
        ignored=SWIN_IGNORED,
        tensors=SWINV2_TENSORS,
        derived=(".attention.self.relative_position_index", ".attention.self.relative_coords_table"),
    ),
)
