"""Athanor (炼丹炉): one stack for foundation models, from a folder of documents to a served chat model."""

__version__ = "0.1.0"
