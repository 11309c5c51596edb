"""One-line changes that must each make a test fail, by area."""

from tests.mutations import encoder_decoders, files, foreign_tokenizers, objectives, pictures, tokens, trunk

CHANGES = (
    *trunk.CHANGES,
    *objectives.CHANGES,
    *encoder_decoders.CHANGES,
    *pictures.CHANGES,
    *files.CHANGES,
    *tokens.CHANGES,
    *foreign_tokenizers.CHANGES,
)
