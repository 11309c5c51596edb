"""How the processes of a training step part: it loads no torch, so that whoever starts them can know it."""


class PartDone(Exception):
    """This process has done its part: the first one holds the whole model, and goes on alone."""
