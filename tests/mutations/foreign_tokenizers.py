"""Changes of what reads other models' tokenizers, and of what writes them for llama.cpp."""

from tests.mutations.change import Change

PIECES, FOREIGN, GGUF = (
    "tests/tokens/test_pieces.py",
    "tests/tokens/test_foreign.py",
    "tests/inference/test_gguf_tokenizers.py",
)

CHANGES = (
    Change("of equal sums the last stays", "tokens/pieces.py",
           "if start[end] < 0 or rounded[0] > best[end]:\n                        best",
           "if start[end] < 0 or rounded[0] >= best[end]:\n                        best", PIECES, "random_models"),
    Change("unknown letters stay apart", "tokens/pieces.py", "elif not unknown:", "else:", PIECES, "random_models"),
    Change("symbols are worth nothing", "tokens/pieces.py", "- BONUS), index", "- 1.5), index", PIECES,
           "random_models"),
    Change("the shortest entry is replaced", "tokens/charsmap.py",
           "for size in range(min(self.longest, len(text) - place), 0, -1):",
           "for size in range(1, 1 + min(self.longest, len(text) - place)):", PIECES, "bare_model and bpe"),
    Change("spaces at the end stay", "tokens/charsmap.py", "return text.rstrip(SPACE) if self.trim else text",
           "return text", PIECES, "bare_model and bpe"),
    Change("tabs stay tabs", "tokens/pieces.py", '.replace("\\t", TAB)', "", PIECES, "chatglm_is_built"),
    Change("roles begin a place later", "tokens/coded.py", '("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")',
           '("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<x>")', PIECES, "chatglm3"),
    Change("XLM-R's ids are the file's", "tokens/spiece.py", '("<s>", "<pad>", "</s>", "<unk>")]',
           '("<s>", "</s>", "<unk>")]', FOREIGN, "xlm_roberta and plain_text"),
    Change("tekken's ids begin at 0", "tokens/pipelines.py", "rank + len(before)", "rank", FOREIGN, "tekken"),
    Change("llama.cpp merges backwards", "inference/gguf_pieces.py", "token: -float(place)", "token: float(place)",
           GGUF, "reader and llama or scores"),
    Change("merges that are missing are forgotten", "inference/gguf_pieces.py", "if set(every) != set(merges):",
           "if False:", GGUF, "refused"),
)  # fmt: skip
