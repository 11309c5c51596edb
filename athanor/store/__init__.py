"""Artifacts, lineage, and the document index behind `why`."""
