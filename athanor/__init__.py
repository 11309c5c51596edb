"""Athanor (炼丹炉): one stack for foundation models, from a folder of documents to a served chat model."""

import os

__version__ = "0.1.0"

# OpenMP's threads wait for each other by spinning. With any other busy process on the machine they then burn each
# other's time slices: a training step on two cores took 17 s instead of 0.25 s. Sleeping costs next to nothing.
# It must be set before torch is loaded, and a user's own choice stands.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
