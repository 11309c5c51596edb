"""Published models as rows: the shape, the parameter count its publication gives, and where that count stands.

A row is built from its `TransformerConfig`, or from its `record` by the family that reads it; one of `Shape`s without a
record is counted only, and `lacks` says what is missing. Counts were looked up, never computed here:
`tests/models/test_published.py` compares.

Sources by short name:
    hub    total of the model's safetensors on the Hugging Face Hub, or llama.cpp's count of its GGUF, as quoted there
    keras  `params` of the preset in keras-hub (keras_hub/src/models/*/*_presets.py, August 2026)
    torchvision  `num_params` of the weights in torchvision/models/vision_transformer.py
    others: the paper and its table, which rounds (`within`)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest
from athanor.models.config import TransformerConfig
from athanor.models.rope import RopeScaling
from athanor.models.shapes import SHAPES, AnyShape, Shape, count_parameters, qwen3


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published model.

    Attributes:
        parts: its stacks of layers: one for a decoder or an encoder; encoder and decoder; picture and text tower.
        count: learned numbers as published.
        within: how far the publication may be from the shape it prints, as a share of it; 0: not by one number.
        source: where the count stands.
        context: longest input in tokens.
        lacks: what we need before we can build this; empty: we build it.
        record: what its config.json says besides the family's defaults, for networks that are no language model.
        decodes: whether `plan` reckons its generation: one stack that reads what it has written.
        note: what a reader should know about the row.
    """

    parts: tuple[AnyShape, ...]
    count: int
    source: str
    context: int
    within: float = 0.0
    lacks: str = ""
    record: Mapping[str, Any] | None = None
    decodes: bool = True
    note: str = ""

    @property
    def runs(self) -> bool:
        """Whether we build this network today."""
        return not self.lacks

    @property
    def parameters(self) -> int:
        """Learned numbers by formula."""
        return sum(count_parameters(part) for part in self.parts)


BIASES = {"bias_qkv": True, "bias_out": True, "bias_mlp": True}
DEEPNORM = {"prefix": True, "norm": "layer", "norm_eps": 1e-5, "norm_place": "residual", **BIASES}
PLAIN = {"gated": False, "norm_bias": True, **BIASES}  # as in GPT, BERT, OPT, ViT: plain layers, layer norm, biases


def gpt2(width: int, layers: int, heads: int, count: int) -> Published:
    """GPT-2 (Radford et al. 2019, table 2)."""
    config = TransformerConfig(
        width=width, layers=layers, heads=heads, hidden=4 * width, vocabulary=50_257, max_positions=1_024, tied=True,
        position="learned", norm="layer", norm_eps=1e-5, mlp="gelu_tanh", **BIASES,
    )  # fmt: skip
    return Published(parts=(config,), count=count, source="keras, hub", context=1_024)


def gpt3(width: int, layers: int, heads: int, count: int, within: float, note: str = "", **more: object) -> Published:
    """GPT-3 (Brown et al. 2020, table 2.1); its counts are names more than sums, so each row says how far it is."""
    numbers = {"width": width, "layers": layers, "heads": heads, "hidden": 4 * width, "vocabulary": 50_257}
    shape = Shape(**{**PLAIN, **numbers, "positions": 2_048, "tied": True, **more})
    return Published(
        parts=(shape,), count=count, within=within, source="paper, table 2.1", context=2_048, note=note,
        lacks="the locally banded sparse attention of every other layer",
    )  # fmt: skip


def opt(width: int, layers: int, heads: int, count: int, source: str, within: float = 0.0) -> Published:
    """OPT (Zhang et al. 2022, table 1); two rows of its position table are never used."""
    config = TransformerConfig(
        width=width, layers=layers, heads=heads, hidden=4 * width, vocabulary=50_272, max_positions=2_048, tied=True,
        position="learned", position_offset=2, norm="layer", norm_eps=1e-5, mlp="relu", **BIASES,
    )  # fmt: skip
    return Published(parts=(config,), count=count, source=source, within=within, context=2_048)


def llama(
    width: int, layers: int, heads: int, hidden: int, count: int, vocabulary: int = 32_000, context: int = 2_048,
    source: str = "hub", **more: object,
) -> Published:  # fmt: skip
    """LLaMA (Touvron et al. 2023, table 2), Llama 2 and 3, Mistral and Mixtral, which have the same layers."""
    numbers = {"width": width, "layers": layers, "heads": heads, "hidden": hidden, "vocabulary": vocabulary}
    config = TransformerConfig(**{"norm_eps": 1e-5, **numbers, "max_positions": context, **more})
    return Published(parts=(config,), count=count, source=source, context=context)


def qwen2(
    width: int, layers: int, heads: int, kv_heads: int, hidden: int, count: int, vocabulary: int = 152_064,
    **more: object,
) -> Published:  # fmt: skip
    """Qwen2 and Qwen2.5 (Yang et al. 2024, table 1): LLaMA's layers with biases on queries, keys and values."""
    numbers = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    fixed = {"vocabulary": vocabulary, "max_positions": 32_768, "rope_base": 1e6, "bias_qkv": True}
    config = TransformerConfig(**{**fixed, **numbers, **more})
    return Published(parts=(config,), count=count, source="hub, keras", context=32_768)


def qwen3_dense(
    width: int, layers: int, heads: int, hidden: int, count: int, tied: bool = False, note: str = ""
) -> Published:
    """Qwen3 (Yang et al. 2025, table 1): normalised queries and keys, 8 key/value heads of 128."""
    more = {"head_width": 128, "vocabulary": 151_936, "max_positions": 40_960, "rope_base": 1e6, "tied": tied}
    config = qwen3(width, layers, heads, 8, hidden, **more)
    return Published(parts=(config,), count=count, source="hub, keras", context=40_960, note=note)


def qwen3_experts(width: int, layers: int, heads: int, hidden: int, expert: int, count: int) -> Published:
    """Qwen3-MoE (Yang et al. 2025, table 2): 128 experts in every layer, 8 for each token, 4 key/value heads."""
    more = {"head_width": 128, "vocabulary": 151_936, "max_positions": 40_960, "rope_base": 1e6, "tied": False}
    choice = {"experts": 128, "experts_per_token": 8, "expert_hidden": expert}
    config = qwen3(width, layers, heads, 4, hidden, **more, **choice)
    return Published(parts=(config,), count=count, source="hub, keras", context=40_960)


def palm(width: int, layers: int, heads: int, count: int) -> Published:
    """PaLM (Chowdhery et al. 2022, table 1): one norm for both halves of a layer, one key/value head, no biases."""
    config = TransformerConfig(
        width=width, layers=layers, heads=heads, kv_heads=1, head_width=256, hidden=4 * width, vocabulary=256_000,
        max_positions=2_048, tied=True, parallel=True, shared_norm=True, norm="layer", norm_bias=False,
    )  # fmt: skip
    return Published(parts=(config,), count=count, within=0.0005, source="paper, table 1", context=2_048)


def glm(width: int, layers: int, hidden: int, vocabulary: int, count: int, context: int) -> Published:
    """ChatGLM2, ChatGLM3 and GLM-4-9B (GLM team 2024): two key/value heads, half of each head rotated in pairs."""
    config = TransformerConfig(
        width=width, layers=layers, heads=32, kv_heads=2, hidden=hidden, vocabulary=vocabulary, max_positions=context,
        norm_eps=1e-5, bias_qkv=True, rope_share=0.5, rope_pairs="neighbours",
    )  # fmt: skip
    note = "published totals also count 32 stored rotation frequencies, which are not learned"
    return Published(parts=(config,), count=count, source="hub (trainable)", context=context, note=note)


def bert(width: int, layers: int, heads: int, count: int) -> Published:
    """BERT, uncased, with its pooler and without the pretraining heads (Devlin et al. 2019, section 3)."""
    shape = Shape(
        width=width, layers=layers, heads=heads, hidden=4 * width, vocabulary=30_522, positions=512, tied=True,
        final_norm=False, extra=2 * width + 2 * width + width * width + width, **PLAIN,
    )  # fmt: skip  # extra: two segments, the embedding's norm, the pooler
    record = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 4 * width,
    }  # fmt: skip
    return Published(parts=(shape,), count=count, source="keras", context=512, record=record, decodes=False)


def t5(width: int, layers: int, heads: int, head_width: int, hidden: int, count: int) -> Published:
    """T5 v1.0 (Raffel et al. 2020, table 14): encoder and decoder share the embedding; 32 relative distances a head."""
    numbers = {"width": width, "layers": layers, "heads": heads, "head_width": head_width, "hidden": hidden}
    encoder = Shape(**numbers, gated=False, vocabulary=32_128, tied=True, extra=32 * heads)
    decoder = replace(encoder, vocabulary=0, cross=True, norms=3)
    return Published(
        parts=(encoder, decoder),
        count=count,
        source="keras, hub",
        context=512,
        record={
            "model_type": "t5",
            "d_model": width,
            "num_layers": layers,
            "num_heads": heads,
            "d_kv": head_width,
            "d_ff": hidden,
        },
        decodes=False,
    )


def picture_tower(width: int, layers: int, heads: int, patch: int, patches: int, extra: int, **more: object) -> Shape:
    """A vision Transformer for 224 pixels: patches and one class token in, `extra` what stands around it."""
    first = 3 * patch * patch * width + width  # every patch's pixels to D, and the class token
    numbers = {"width": width, "layers": layers, "heads": heads, "hidden": 4 * width, "positions": patches + 1}
    return Shape(**{**PLAIN, **numbers, "extra": first + extra, **more})


def vit(width: int, layers: int, heads: int, patch: int, count: int) -> Published:
    """ViT with 1,000 classes at 224 pixels (Dosovitskiy et al. 2021, table 1)."""
    patches = (224 // patch) ** 2
    extra = width + 1_000 * width + 1_000  # the patches' bias and the classifier
    tower = picture_tower(width, layers, heads, patch, patches, extra)
    record = {
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": width, "num_labels": 1_000,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width, "patch_size": patch,
    }  # fmt: skip
    return Published(
        parts=(tower,), count=count, source="torchvision", context=patches + 1, record=record, decodes=False
    )


def clip(width: int, layers: int, heads: int, patch: int, text: int, shared: int, count: int) -> Published:
    """CLIP (Radford et al. 2021, table 20): picture and text tower, a projection each, and one temperature."""
    extra = 2 * width + width * shared + 1  # the norm before the first layer, the projection, the temperature
    picture = picture_tower(width, layers, heads, patch, (224 // patch) ** 2, extra)
    words = Shape(
        width=text, layers=12, heads=text // 64, hidden=4 * text, vocabulary=49_408, positions=77, tied=True,
        extra=text * shared, **PLAIN,
    )  # fmt: skip
    record = {
        "model_type": "clip", "projection_dim": shared,
        "text_config": {"hidden_size": text, "num_attention_heads": text // 64, "intermediate_size": 4 * text},
        "vision_config": {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "patch_size": patch,
        },
    }  # fmt: skip
    return Published(parts=(picture, words), count=count, source="hub", context=77, record=record, decodes=False)


def whisper(width: int, layers: int, count: int, mels: int = 80, vocabulary: int = 51_865) -> Published:
    """Whisper (Radford et al. 2022, table 1), multilingual; its fixed sinusoids for 1,500 frames are stored, too."""
    numbers = {"width": width, "layers": layers, "heads": width // 64, "hidden": 4 * width}
    ears = 3 * mels * width + width + 3 * width * width + width  # two convolutions of three frames
    encoder = Shape(**PLAIN, **numbers, key_bias=False, positions=1_500, extra=ears)
    decoder = Shape(
        **PLAIN, **numbers, key_bias=False, positions=448, vocabulary=vocabulary, tied=True, cross=True, norms=3
    )
    return Published(
        parts=(encoder, decoder),
        count=count,
        source="hub, keras",
        context=448,
        record={
            "model_type": "whisper",
            "d_model": width,
            "num_mel_bins": mels,
            "vocab_size": vocabulary,
            **{
                f"{part}_{name}": value
                for part in ("encoder", "decoder")
                for name, value in (("layers", layers), ("attention_heads", width // 64), ("ffn_dim", 4 * width))
            },
        },
        decodes=False,
    )


LLAMA3 = {"vocabulary": 128_256, "context": 8_192, "kv_heads": 8, "rope_base": 5e5}
STRETCH = {"kind": "llama3", "original_positions": 8_192, "low_factor": 1.0, "high_factor": 4.0}
LLAMA31 = {**LLAMA3, "context": 131_072, "rope_scaling": RopeScaling(factor=8.0, **STRETCH)}
LLAMA32 = {**LLAMA31, "rope_scaling": RopeScaling(factor=32.0, **STRETCH), "tied": True}
MISTRAL = {"source": "keras", "context": 32_768, "kv_heads": 8}
MIXTRAL = {"kv_heads": 8, "rope_base": 1e6, "experts": 8, "experts_per_token": 2}
SMALL_QWEN = {"vocabulary": 151_936, "tied": True}
DROPPED_HEAD = "the Hub's total also counts the tied head, which the checkpoint stores twice"

PUBLISHED: dict[str, Published] = {
    "gpt1": Published(
        parts=(TransformerConfig(
            width=768, layers=12, heads=12, hidden=3_072, vocabulary=40_478, max_positions=512, tied=True,
            position="learned", norm="layer", norm_eps=1e-5, norm_place="after", mlp="gelu_tanh", **BIASES),),
        count=116_534_784, source="hub", context=512,
    ),
    "gpt2": gpt2(768, 12, 12, 124_439_808),
    "gpt2-medium": gpt2(1_024, 24, 16, 354_823_168),
    "gpt2-large": gpt2(1_280, 36, 20, 774_030_080),
    "gpt2-xl": gpt2(1_600, 48, 25, 1_557_611_200),
    "gpt3-small": gpt3(768, 12, 12, 125_000_000, 0.004),
    "gpt3-medium": gpt3(1_024, 24, 16, 350_000_000, 0.018),
    "gpt3-large": gpt3(1_536, 24, 16, 760_000_000, 0.002),
    "gpt3-xl": gpt3(2_048, 24, 16, 1_300_000_000, 0.013,
                    "the table prints 24 heads of 128, which 2,048 does not hold; 16 give the count it prints"),
    "gpt3-2.7b": gpt3(2_560, 32, 32, 2_700_000_000, 0.019),
    "gpt3-6.7b": gpt3(4_096, 32, 32, 6_700_000_000, 0.007),
    "gpt3-13b": gpt3(5_140, 40, 40, 13_000_000_000, 0.006, head_width=128),
    "gpt3-175b": gpt3(12_288, 96, 96, 175_000_000_000, 0.003),
    "opt-125m": opt(768, 12, 12, 125_000_000, "paper, table 1", 0.002),
    "opt-350m": Published(
        parts=(Shape(width=1_024, layers=24, heads=16, hidden=4_096, vocabulary=50_272, embedding_width=512,
                     positions=2_050, tied=True, final_norm=False, **PLAIN),),
        count=331_196_416, source="hub", context=2_048, lacks="an embedding narrower than the layers",
    ),
    "opt-1.3b": opt(2_048, 24, 32, 1_315_758_080, "hub"),
    "opt-2.7b": opt(2_560, 32, 32, 2_651_596_800, "hub"),
    "opt-6.7b": opt(4_096, 32, 32, 6_700_000_000, "paper, table 1", 0.007),
    "opt-13b": opt(5_120, 40, 40, 13_000_000_000, "paper, table 1", 0.012),
    "opt-30b": opt(7_168, 48, 56, 30_000_000_000, "paper, table 1", 0.001),
    "opt-66b": opt(9_216, 64, 72, 66_000_000_000, "paper, table 1", 0.005),
    "opt-175b": opt(12_288, 96, 96, 175_000_000_000, "paper, table 1", 0.003),
    "llama-7b": llama(4_096, 32, 32, 11_008, 6_738_415_616),
    "llama-13b": llama(5_120, 40, 40, 13_824, 13_015_864_320),
    "llama-33b": llama(6_656, 60, 52, 17_920, 32_528_943_616),
    "llama-65b": llama(8_192, 80, 64, 22_016, 65_285_660_672),
    "llama-2-7b": llama(4_096, 32, 32, 11_008, 6_738_415_616, context=4_096),
    "llama-2-13b": llama(5_120, 40, 40, 13_824, 13_015_864_320, context=4_096),
    "llama-2-70b": llama(8_192, 80, 64, 28_672, 68_976_648_192, context=4_096, kv_heads=8),
    "llama-3-8b": llama(4_096, 32, 32, 14_336, 8_030_261_248, **LLAMA3),
    "llama-3-70b": llama(8_192, 80, 64, 28_672, 70_553_706_496, **LLAMA3),
    "llama-3.1-8b": llama(4_096, 32, 32, 14_336, 8_030_261_248, **LLAMA31),
    "llama-3.1-70b": llama(8_192, 80, 64, 28_672, 70_553_706_496, **LLAMA31),
    "llama-3.1-405b": llama(16_384, 126, 128, 53_248, 405_853_388_800, **LLAMA31),
    "llama-3.2-1b": llama(2_048, 16, 32, 8_192, 1_235_814_400, **LLAMA32),
    "llama-3.2-3b": llama(3_072, 28, 24, 8_192, 3_212_749_824, **LLAMA32),
    "mistral-7b": llama(4_096, 32, 32, 14_336, 7_241_732_096, window=4_096, **MISTRAL),
    "mistral-7b-v0.3": llama(4_096, 32, 32, 14_336, 7_248_023_552, vocabulary=32_768, rope_base=1e6, **MISTRAL),
    "mixtral-8x7b": llama(4_096, 32, 32, 14_336, 46_702_792_704, context=32_768, source="keras", **MIXTRAL),
    "mixtral-8x22b": llama(6_144, 56, 48, 16_384, 140_620_634_112, context=65_536, **MIXTRAL),
    "qwen2-0.5b": qwen2(896, 24, 14, 2, 4_864, 494_032_768, **SMALL_QWEN),
    "qwen2-1.5b": qwen2(1_536, 28, 12, 2, 8_960, 1_543_714_304, **SMALL_QWEN),
    "qwen2-7b": qwen2(3_584, 28, 28, 4, 18_944, 7_615_616_512),
    "qwen2-72b": qwen2(8_192, 80, 64, 8, 29_568, 72_706_203_648),
    "qwen2.5-0.5b": qwen2(896, 24, 14, 2, 4_864, 494_032_768, **SMALL_QWEN),
    "qwen2.5-1.5b": qwen2(1_536, 28, 12, 2, 8_960, 1_543_714_304, **SMALL_QWEN),
    "qwen2.5-3b": qwen2(2_048, 36, 16, 2, 11_008, 3_085_938_688, **SMALL_QWEN),
    "qwen2.5-7b": qwen2(3_584, 28, 28, 4, 18_944, 7_615_616_512),
    "qwen2.5-14b": qwen2(5_120, 48, 40, 8, 13_824, 14_770_033_664),
    "qwen2.5-32b": qwen2(5_120, 64, 40, 8, 27_648, 32_763_876_352),
    "qwen2.5-72b": qwen2(8_192, 80, 64, 8, 29_568, 72_706_203_648),
    "qwen3-0.6b": qwen3_dense(1_024, 28, 16, 3_072, 596_049_920, True, DROPPED_HEAD),
    "qwen3-1.7b": qwen3_dense(2_048, 28, 16, 6_144, 1_720_574_976, True, DROPPED_HEAD),
    "qwen3-4b": qwen3_dense(2_560, 36, 32, 9_728, 4_022_468_096, True),
    "qwen3-8b": qwen3_dense(4_096, 36, 32, 12_288, 8_190_735_360),
    "qwen3-14b": qwen3_dense(5_120, 40, 40, 17_408, 14_768_307_200),
    "qwen3-32b": qwen3_dense(5_120, 64, 64, 25_600, 32_762_123_264),
    "qwen3-30b-a3b": qwen3_experts(2_048, 48, 32, 6_144, 768, 30_532_122_624),
    "qwen3-235b-a22b": qwen3_experts(4_096, 94, 64, 12_288, 1_536, 235_093_634_560),
    "chatglm-6b": Published(
        parts=(TransformerConfig(
            width=4_096, layers=28, heads=32, hidden=16_384, vocabulary=130_528, max_positions=2_048, tied=True,
            position_axes=2, mlp="gelu_tanh", **DEEPNORM, residual_scale=56**0.5,
        ),),
        count=6_173_286_400, source="MrYxJ/calculate-flops.pytorch, README", context=2_048,
        note="the scale 6b is this shape with one-dimensional positions, reading from left to right",
    ),
    "chatglm3-6b": glm(4_096, 28, 13_696, 65_024, 6_243_584_000, 8_192),
    "glm-4-9b": glm(4_096, 40, 13_696, 151_552, 9_399_951_360, 131_072),
    "glm-130b": Published(
        parts=(TransformerConfig(
            width=12_288, layers=70, heads=96, hidden=32_768, vocabulary=150_528, max_positions=2_048, tied=True,
            mlp="geglu_exact", **DEEPNORM, residual_scale=140**0.5,
        ),),
        count=130_000_000_000, within=0.011, context=2_048,
        source="its name (Zeng et al. 2022); shape: THUDM/GLM-130B, configs/model_glm_130b.sh",
        note="the shape it prints has 128.7e9; the scale 130b is it with norms before the layers",
    ),
    "palm-8b": palm(4_096, 32, 16, 8_630_000_000),
    "palm-62b": palm(8_192, 64, 32, 62_500_000_000),
    "palm-540b": palm(18_432, 118, 48, 540_350_000_000),
    "bert-base": bert(768, 12, 12, 109_482_240),
    "bert-large": bert(1_024, 24, 16, 335_141_888),
    "t5-small": t5(512, 6, 8, 64, 2_048, 60_506_624),
    "t5-base": t5(768, 12, 12, 64, 3_072, 222_903_552),
    "t5-large": t5(1_024, 24, 16, 64, 4_096, 737_668_096),
    "t5-3b": t5(1_024, 24, 32, 128, 16_384, 2_851_598_336),
    "t5-11b": t5(1_024, 24, 128, 128, 65_536, 11_307_321_344),
    "vit-b-16": vit(768, 12, 12, 16, 86_567_656),
    "vit-l-16": vit(1_024, 24, 16, 16, 304_326_632),
    "vit-h-14": vit(1_280, 32, 16, 14, 632_045_800),
    "clip-vit-b-32": clip(768, 12, 12, 32, 512, 512, 151_277_313),
    "clip-vit-b-16": clip(768, 12, 12, 16, 512, 512, 149_620_737),
    "clip-vit-l-14": clip(1_024, 24, 16, 14, 768, 768, 427_616_513),
    "whisper-tiny": whisper(384, 4, 37_760_640),
    "whisper-base": whisper(512, 6, 72_593_920),
    "whisper-small": whisper(768, 12, 241_734_912),
    "whisper-medium": whisper(1_024, 24, 763_857_920),
    "whisper-large-v2": whisper(1_280, 32, 1_543_304_960),
    "whisper-large-v3": whisper(1_280, 32, 1_543_490_560, mels=128, vocabulary=51_866),
}  # fmt: skip


def find_model(name: str) -> Published:
    """The row of a published model, or of a scale of ours (whose published count is the formula's).

    Raises:
        AthanorError: no such row; the nearest names are given.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in SHAPES:
        config = SHAPES[name]
        return Published(
            parts=(config,), count=count_parameters(config), source="our own shape", context=config.max_positions
        )
    known = [*SHAPES, *PUBLISHED]
    raise AthanorError(f"model={name!r} is not in the table of shapes", allowed=", ".join(known),
                       fix=nearest(name, known))  # fmt: skip
