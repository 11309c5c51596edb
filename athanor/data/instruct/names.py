"""Files of an artifact that holds conversations, preferences or judgements."""

TRAIN, HELDOUT, EXAM = "train.jsonl.zst", "heldout.jsonl.zst", "exam.jsonl.zst"
