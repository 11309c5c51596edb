"""Tokenizers, conversations, and the one chat template."""
