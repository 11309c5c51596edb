"""Running a trained model: sampling, the naive reference, the batched engine, scoring, and INT4 weights."""
