"""What a model learns: one file per objective, each with its complete loss."""
