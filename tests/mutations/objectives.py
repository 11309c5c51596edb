"""Changes of the objectives and their losses."""

from tests.mutations.change import Change

HIDING, FORMS, PAIRS = (f"tests/training/test_{name}.py" for name in ("objectives", "classification", "seq2seq"))
PLACE = "training/objectives/"

CHANGES = (
    Change(
        "hidden tokens are all replaced",
        PLACE + "masked.py",
        "REPLACED, RANDOM = 0.8, 0.1",
        "REPLACED, RANDOM = 1.0, 0.0",
        HIDING,
        "fifteen_in_a_hundred",
    ),
    Change(
        "twice as many tokens are hidden",
        PLACE + "masked.py",
        "SHARE = 0.15",
        "SHARE = 0.3",
        HIDING,
        "fifteen_in_a_hundred",
    ),
    Change(
        "special tokens are hidden",
        PLACE + "draws.py",
        "return ~padding(batch) & ~np.isin(",
        "return ~padding(batch) | np.isin(",
        HIDING,
        "special_tokens_and_padding",
    ),
    Change(
        "padding is hidden",
        PLACE + "draws.py",
        "return last_BT & ~follows_BT.any(1, keepdims=True)",
        "return last_BT & False",
        HIDING,
        "special_tokens_and_padding",
    ),
    Change(
        "a rank's rows have the numbers of the first rank's",
        PLACE + "draws.py",
        "(seed, step, first + row)",
        "(seed, step, row)",
        HIDING,
        "shares_in_order",
    ),
    Change(
        "every step hides the same",
        PLACE + "draws.py",
        "(seed, step, first + row)",
        "(seed, 0, rank * rows + row)",
        HIDING,
        "loses_other_tokens",
    ),
    Change(
        "words are hidden in parts",
        PLACE + "masked.py",
        "(begins_T[free] | broken)[1:]",
        "(begins_T[free] | True)[1:]",
        HIDING,
        "words_are_hidden_whole",
    ),
    Change(
        "letters after a Chinese one go on", "tokens/wholeword.py", "(0x4E00, 0x9FFF), ", "", HIDING, "whole_words_of"
    ),
    Change(
        "a character is torn",
        "tokens/wholeword.py",
        "goes_on_T = inside_N[starts_T] | (",
        "goes_on_T = (",
        HIDING,
        "whole_words_of_a_byte",
    ),
    Change(
        "guessed words see themselves",
        "models/permuted.py",
        "(order_BT[:, None] < order_BT[:, :, None])",
        "(order_BT[:, None] <= order_BT[:, :, None])",
        HIDING,
        "permutation_loss",
    ),
    Change(
        "one word in three is guessed", PLACE + "permutation.py", "ONE_IN = 6", "ONE_IN = 3", HIDING, "one_word_in_six"
    ),
    Change(
        "runs of up to nine words", PLACE + "permutation.py", "LONGEST = 5", "LONGEST = 9", HIDING, "one_word_in_six"
    ),
    Change(
        "a sentinel stands behind its span",
        PLACE + "span_corruption.py",
        "target += [mark, ids_T[first:stop]]",
        "target += [ids_T[first:stop], mark]",
        HIDING,
        "hold_the_text",
    ),
    Change(
        "the first share is never large",
        PLACE + "span_corruption.py",
        "np.sort(random.choice(total - 1, count - 1, replace=False)) + 1",
        "np.arange(count - 1) + 1",
        HIDING,
        "every_way_to_share",
    ),
    Change(
        "T5's decoder begins with the end",
        PLACE + "span_corruption.py",
        "shifted(targets_BT, start=pad, padding=pad)",
        "shifted(targets_BT, start=end, padding=pad)",
        HIDING,
        "begins_with_padding",
    ),
    Change(
        "all rows lose their end", PLACE + "blank_infilling.py", "LONG = 0.5", "LONG = 1.0", HIDING, "half_of_the_rows"
    ),
    Change(
        "one order alone",
        PLACE + "classification.py",
        "    return [joined(example.text, example.second), joined(example.second, example.text)]",
        "    return [joined(example.text, example.second)] * 2",
        FORMS,
        "does_not_know_which",
    ),
    Change(
        "endings of all examples compete",
        PLACE + "classification.py",
        "- (count_E.cumsum(0) - count_E)[batch.example_R]",
        "- 0 * batch.example_R",
        FORMS,
        "endings_compete",
    ),
    Change(
        "the auxiliary loss is left out",
        PLACE + "classification.py",
        "return Loss(task + auxiliary * language, count, parts)",
        "return Loss(task, count, parts)",
        FORMS,
        "both_losses",
    ),
    Change(
        "a token's weight forgets its reading",
        PLACE + "classification.py",
        "1 / (lengths_R * readings_E[batch.example_R])",
        "1 / (lengths_R.max() * readings_E[batch.example_R])",
        FORMS,
        "both_losses",
    ),
    Change(
        "smoothing is turned round",
        PLACE + "sequence_to_sequence.py",
        "head.weight[targets_X] - head.weight.mean(0)",
        "head.weight.mean(0) - head.weight[targets_X]",
        PAIRS,
        "gradient_of_its_formula",
    ),
    Change(
        "tasks count by their size",
        PLACE + "mixed.py",
        "one.total / one.count.clamp_min(1)",
        "one.total",
        PAIRS,
        "by_their_weights",
    ),
    Change(
        "the language of the target is left out",
        PLACE + "sequence_to_sequence.py",
        "(signs.source, signs.target))",
        "(signs.source, None))",
        PAIRS,
        "laid_out",
    ),
)
