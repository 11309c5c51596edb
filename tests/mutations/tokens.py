"""Changes of tokenizers and of the chat template."""

from tests.mutations.change import Change

FAST = "tests/tokens/test_fast.py"
TEMPLATE = "tests/tokens/test_template.py"

CHANGES = (
    # the fast path
    Change(
        "merges need not rise",
        "tokens/fast.py",
        "if rank == none or rank < before:",
        "if rank == none:",
        FAST,
        "another_order",
    ),
    Change(
        "the pair after a merge is the one before it",
        "tokens/fast.py",
        "ranks[place] = merges.get((parts[place], parts[place + 1]), none)",
        "ranks[place] = none",
        FAST,
        "vocabularies_are_taken",
    ),
    Change(
        "ids are taken for ranks",
        "tokens/fast.py",
        "return found if self.ids is None else self.ids[found]",
        "return found",
        FAST,
        "order_of_merging",
    ),
    Change(
        "text is not composed first",
        "tokens/fast.py",
        "if self._compose and not text.isascii() and not _is_composed(text):",
        "if False:",
        FAST,
        "references and qwen",
    ),
    Change(
        "endless runs are taken",
        "tokens/fast.py",
        "if len(text) > STRIDE * RUN and _ENDLESS.search(text[::STRIDE]):",
        "if False:",
        FAST,
        "overflow",
    ),
    Change(
        "words of their own are looked up",
        "tokens/fast.py",
        'if model.get("ignore_merges") and any(',
        "if False and any(",
        FAST,
        "left_to_the_reference",
    ),
    Change(
        "added words are cut",
        "tokens/fast.py",
        "return not any(token in text for token in self._apart)",
        "return True",
        FAST,
        "references",
    ),
    # the chat template
    Change(
        "the end of a turn is not learnt",
        "tokens/template.py",
        "mask += [False, *([learnt] * (len(content) + 1))]",
        "mask += [False, *([learnt] * len(content)), False]",
        TEMPLATE,
        "the_mask",
    ),
    Change(
        "the user is learnt, too",
        "tokens/template.py",
        'learnt = role == "assistant"',
        'learnt = role in ("assistant", "user")',
        TEMPLATE,
        "the_mask",
    ),
    Change(
        "a special token in a text stays whole",
        "tokens/template.py",
        'text = text.replace(token, token[0] + " " + token[1:])',
        "text = text.replace(token, token)",
        TEMPLATE,
        "becomes_a_special",
    ),
    Change(
        "Jinja opens no turn",
        "tokens/template.py",
        "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}",
        "",
        TEMPLATE,
        "transformers_have_the_same",
    ),
    Change(
        "marks of calls stay whole in JSON",
        "tokens/template.py",
        '*((mark, "\\\\u003c" + mark[1:]) for mark in MARKS)]',
        "]",
        TEMPLATE,
        "calls_are_read_back",
    ),
    Change(
        "a call that is not well formed is a call",
        "tokens/template.py",
        "if not text.startswith(OPEN) or not close:",
        "if not text.startswith(OPEN):",
        TEMPLATE,
        "no_call",
    ),
)
