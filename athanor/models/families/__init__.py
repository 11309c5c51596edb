"""Which networks we know by name: one row per family, from its `config.json` to ours.

Adding a family means a row in one of these tables, with the names of its tensors, and its parity test.
"""

from athanor.models.families.causal import CAUSAL
from athanor.models.families.family import Family
from athanor.models.families.glm import GLM
from athanor.models.families.masked import MASKED
from athanor.models.families.permuted import PERMUTED
from athanor.models.families.pictures import PICTURES
from athanor.models.families.seq2seq import SEQ2SEQ
from athanor.models.families.vision import VISION

FAMILIES: dict[str, Family] = {
    family.name: family for family in (*CAUSAL, *GLM, *MASKED, *PERMUTED, *PICTURES, *SEQ2SEQ, *VISION)
}
