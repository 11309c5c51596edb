"""Networks only: one trunk, its fronts and heads, and the roads to and from Hugging Face checkpoints."""
