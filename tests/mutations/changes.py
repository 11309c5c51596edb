"""One-line changes that must each make a test fail: where, what stands there, what it becomes, and who must notice."""

from dataclasses import dataclass

FAMILIES = "tests/parity/test_language_families.py"
MASKED = "tests/parity/test_masked_families.py"
PERMUTED = "tests/parity/test_permuted_families.py"
KERNELS = "tests/models/test_kernels.py"
EXPERTS = "tests/parity/test_experts.py"
ROPE = "tests/parity/test_rope_scaling.py"


@dataclass(frozen=True)
class Change:
    """A mutation of one line.

    Attributes:
        name: what is broken.
        file: inside the package.
        old: the piece of the line that is replaced; it stands in the file exactly once.
        new: what it becomes.
        tests: file of the tests that must notice.
        only: pytest's -k for them; empty: all of the file.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""


CHANGES = (
    # rotation
    Change(
        "rotation turns back",
        "models/kernels.py",
        "turned = (a * cos_BT1R - b * sin_BT1R, b * cos_BT1R + a * sin_BT1R)",
        "turned = (a * cos_BT1R + b * sin_BT1R, b * cos_BT1R - a * sin_BT1R)",
        FAMILIES,
        "llama",
    ),
    Change(
        "rotation while training turns back",
        "models/kernels.py",
        "return turn(x_BTNH, cos, sin, pairs, sign=1)",
        "return turn(x_BTNH, cos, sin, pairs, sign=-1)",
        FAMILIES,
        "while_training and llama",
    ),
    Change(
        "its gradient does not turn back",
        "models/kernels.py",
        "ctx.pairs, sign=-1), None",
        "ctx.pairs, sign=1), None",
        FAMILIES,
        "gradients and llama",
    ),
    Change(
        "pairs are halves where they should be neighbours",
        "models/kernels.py",
        "return turned[..., 0::2], turned[..., 1::2], rest",
        "return (*turned.chunk(2, -1), rest)",
        FAMILIES,
        "glm4",
    ),
    Change(
        "frequency of the next pair",
        "models/rope.py",
        "torch.arange(0, rotated, 2,",
        "torch.arange(2, rotated + 2, 2,",
        FAMILIES,
        "llama",
    ),
    Change(
        "linear scaling the wrong way",
        "models/rope.py",
        "return frequency_R / scaling.factor\n",
        "return frequency_R * scaling.factor\n",
        FAMILIES,
        "linear",
    ),
    Change(
        "yarn forgets to scale cosine and sine",
        "models/rope.py",
        "factor = scaling.attention_factor or 1.0",
        "factor = 1.0",
        FAMILIES,
        "yarn",
    ),
    Change(
        "yarn's ramp is reversed",
        "models/rope.py",
        "* slowed_R + frequency_R * (1 - slowed_R)",
        "* (1 - slowed_R) + frequency_R * slowed_R",
        FAMILIES,
        "yarn",
    ),
    Change(
        "llama3's long and short wavelengths change places",
        "models/rope.py",
        "(1 - kept_R) + frequency_R * kept_R",
        "kept_R + frequency_R * (1 - kept_R)",
        FAMILIES,
        "llama3",
    ),
    Change(
        "dynamic scaling forgets the length",
        "models/rope.py",
        "stretch_BT = scaling.factor * share_BT - (scaling.factor - 1)",
        "stretch_BT = scaling.factor + 0 * share_BT",
        ROPE,
        "",
    ),
    # attention
    Change(
        "scores are not scaled",
        "models/config.py",
        "return self.head_size**-0.5 if self.attention_scale is None",
        "return 1.0 if self.attention_scale is None",
        FAMILIES,
        "logits_equal and llama",
    ),
    Change(
        "the gradient of queries is not scaled",
        "models/kernels.py",
        "dq *= ctx.scale",
        "dq *= 1.0",
        FAMILIES,
        "gradients and llama",
    ),
    Change(
        "a query sees the next key",
        "models/kernels.py",
        "self.allowed_BTS = (place_T[:, None] >= place_T)[None]",
        "self.allowed_BTS = (place_T[:, None] + 1 >= place_T)[None]",
        FAMILIES,
        "while_training and llama",
    ),
    Change(
        "documents see the one before",
        "models/kernels.py",
        "& (place_T >= starts_BT[:, :, None])",
        "& (place_T >= starts_BT[:, :, None] - 1)",
        FAMILIES,
        "packed and llama",
    ),
    Change(
        "the window is one too wide",
        "models/kernels.py",
        "first_T = (place_T - window + 1).clamp_min(0)",
        "first_T = (place_T - window).clamp_min(0)",
        FAMILIES,
        "mistral",
    ),
    Change(
        "the window of a cache is one too wide",
        "models/attention.py",
        "(cached_distances(mask_BTS) < window)",
        "(cached_distances(mask_BTS) <= window)",
        FAMILIES,
        "cache and mistral",
    ),
    Change(
        "windows are in the wrong layers",
        "models/config.py",
        "self.window is not None and (self.window_layers is None or layer in self.window_layers)",
        "self.window is not None and (self.window_layers is None or layer not in self.window_layers)",
        FAMILIES,
        "qwen2",
    ),
    Change(
        "keys are not normalised",
        "models/attention.py",
        "self.q_norm(q_BTNH), self.k_norm(k_BTKH)",
        "self.q_norm(q_BTNH), k_BTKH",
        FAMILIES,
        "qwen3",
    ),
    Change(
        "query heads share the wrong key head",
        "models/kernels.py",
        "return x_BTNH.unflatten(2, (-1, group)).transpose(1, 2)",
        "return x_BTNH.unflatten(2, (group, -1)).transpose(2, 3).transpose(1, 2)",
        FAMILIES,
        "gradients and grouped",
    ),
    Change(
        "a position of the cache is off by one",
        "inference/cache.py",
        "keys[self.row_B, :, self.place] = k_BKTH[:, :, 0]",
        "keys[self.row_B, :, self.place - 1] = k_BKTH[:, :, 0]",
        FAMILIES,
        "different_places and llama",
    ),
    Change(
        "the softmax forgets its sum",
        "models/kernels.py",
        "dscore = torch._softmax_backward_data(dp, p, -1, p.dtype)",
        "dscore = dp * p",
        FAMILIES,
        "gradients and llama",
    ),
    # position
    Change(
        "learned positions begin one later",
        "models/language.py",
        "table(axis_BT + self.config.position_offset)",
        "table(axis_BT + max(self.config.position_offset - 1, 0))",
        FAMILIES,
        "opt",
    ),
    Change(
        "positions do not restart",
        "models/language.py",
        "if starts_BT is None else place_T - starts_BT\n        return place_BT if",
        "if starts_BT is None else (place_T + 0 * starts_BT)\n        return place_BT if",
        FAMILIES,
        "packed and gpt2",
    ),
    Change(
        "the slopes of ALiBi grow",
        "models/attention.py",
        "slopes = [2 ** (-8 * number / whole)",
        "slopes = [2 ** (-4 * number / whole)",
        FAMILIES,
        "bloom",
    ),
    Change(
        "the extra slopes of ALiBi are in step",
        "models/attention.py",
        "range(1, 2 * (heads - whole), 2)",
        "range(2, 2 * (heads - whole) + 2, 2)",
        FAMILIES,
        "bloom",
    ),
    # norms and the stream
    Change(
        "epsilon is forgotten",
        "models/kernels.py",
        "return F.rms_norm(x, weight.shape, weight, eps)",
        "return F.rms_norm(x, weight.shape, weight, 1e-6)",
        FAMILIES,
        "llama",
    ),
    Change(
        "the gradient of the norm forgets the mean",
        "models/kernels.py",
        "mean = (product @ weight).unsqueeze(-1) / -weight.shape[0]",
        "mean = 0 * (product @ weight).unsqueeze(-1)",
        KERNELS,
        "rms_norm",
    ),
    Change(
        "GLM-4's second norm is left out",
        "models/transformer.py",
        "return x_BTD + (y_BTD if self.mlp_norm_out is None else self.mlp_norm_out(y_BTD))",
        "return x_BTD + y_BTD",
        FAMILIES,
        "glm4",
    ),
    Change(
        "parallel blocks run in series",
        "models/transformer.py",
        "other_BTD = normal_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD)",
        "other_BTD = normal_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD + y_BTD)",
        FAMILIES,
        "gpt_neox",
    ),
    Change(
        "GPT-1 normalises before",
        "models/transformer.py",
        "return self.mlp_norm(x_BTD * self.scale + self.feed(x_BTD, places))",
        "return x_BTD * self.scale + self.feed(self.mlp_norm(x_BTD), places)",
        FAMILIES,
        "openai",
    ),
    Change(
        "embeddings are not normalised",
        "models/language.py",
        "return x_BTD if self.embedding_norm is None else self.embedding_norm(x_BTD)",
        "return x_BTD",
        FAMILIES,
        "bloom",
    ),
    Change(
        "logits are not scaled",
        "models/language.py",
        "return scores.float() if self.config.logit_scale == 1.0 else scores.float() * self.config.logit_scale",
        "return scores.float()",
        FAMILIES,
        "cohere",
    ),
    # feed-forward
    Change(
        "gate and up change places",
        "models/kernels.py",
        "gate, up = x.chunk(2, dim=-1)\n    return F.silu(gate) * up",
        "up, gate = x.chunk(2, dim=-1)\n    return F.silu(gate) * up",
        FAMILIES,
        "logits_equal and llama",
    ),
    Change(
        "gelu is exact where it is approximate",
        "models/kernels.py",
        'return F.gelu(x, approximate="tanh")',
        "return F.gelu(x)",
        FAMILIES,
        "gpt2",
    ),
    Change(
        "quick gelu has another slope",
        "models/kernels.py",
        "return x * torch.sigmoid(1.702 * x)",
        "return x * torch.sigmoid(1.7 * x)",
        FAMILIES,
        "imagegpt",
    ),
    Change(
        "experts are served in another order",
        "models/feedforward.py",
        "token = order // self.per_token",
        "token = order % len(x_XD)",
        EXPERTS,
        "",
    ),
    Change(
        "the weights of experts do not sum to one",
        "models/feedforward.py",
        "        if self.normal:",
        "        if not self.normal:",
        FAMILIES,
        "mixtral",
    ),
    Change(
        "the balance loss counts probabilities twice",
        "models/feedforward.py",
        "(self.sent_E * self.probability_E).sum()",
        "(self.probability_E * self.probability_E).sum()",
        EXPERTS,
        "",
    ),
    # loss
    Change(
        "the loss counts what it should ignore",
        "models/language.py",
        "scored_X = targets_X != IGNORED",
        "scored_X = targets_X >= IGNORED",
        FAMILIES,
        "gradients and llama",
    ),
    Change(
        "the gradient of the loss forgets the target",
        "models/kernels.py",
        "p_X1.squeeze(1) - 1)",
        "p_X1.squeeze(1))",
        FAMILIES,
        "gradients and llama",
    ),
    # encoders
    Change(
        "an encoder sees its left only",
        "models/transformer.py",
        "return None if starts_BT is None else starts_BT[:, :, None] == starts_BT[:, None]",
        "return None if starts_BT is None else starts_BT[:, :, None] >= starts_BT[:, None]",
        MASKED,
        "packed",
    ),
    Change(
        "segments are added after the norm",
        "models/masked.py",
        "return self.trunk(self.norm(x_BTD), starts_BT=starts_BT)",
        "return self.trunk(x_BTD, starts_BT=starts_BT)",
        MASKED,
        "outputs",
    ),
    Change(
        "the pooled vector is that of the last token",
        "models/masked.py",
        "self.pooler(hidden_BTD[:, 0])",
        "self.pooler(hidden_BTD[:, -1])",
        MASKED,
        "outputs",
    ),
    Change(
        "a guess sees its own word",
        "models/permuted.py",
        "content_BTT & (order_BT[:, None] < order_BT[:, :, None])",
        "content_BTT & (order_BT[:, None] <= order_BT[:, :, None])",
        PERMUTED,
        "",
    ),
    Change(
        "distances are counted the other way",
        "models/permuted.py",
        "distance_TS = (keys - length) + t_T1 - torch.arange(keys,",
        "distance_TS = (keys - length) - t_T1 + torch.arange(keys,",
        PERMUTED,
        "",
    ),
    Change(
        "the bias of distances is forgotten",
        "models/permuted.py",
        "q_BTNH + self.distance_bias, self.split",
        "q_BTNH, self.split",
        PERMUTED,
        "",
    ),
    # checkpoints
    Change(
        "q, k and v of a head are cut elsewhere",
        "models/families/family.py",
        "weight.unflatten(0, (3, config.heads, config.head_size)).transpose(0, 1)",
        "weight.unflatten(0, (config.heads, 3, config.head_size))",
        FAMILIES,
        "gpt_neox or bloom",
    ),
    Change(
        "a product stored sideways is not turned",
        "models/families/family.py",
        "return tuple(piece.t() for piece in pieces) if self.transposed else",
        "return tuple(piece.t() for piece in pieces) if self.by_head else",
        FAMILIES,
        "gpt2",
    ),
    Change(
        "a tensor nobody asked for is taken",
        "models/convert.py",
        "        if name not in copies:",
        "        if False:",
        "tests/models/test_convert.py",
        "",
    ),
)
