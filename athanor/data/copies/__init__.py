"""Text that stands elsewhere too: exact and near copies, repeated passages, items of a test."""
