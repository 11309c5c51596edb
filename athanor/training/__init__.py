"""The one training loop, and one file per objective."""
