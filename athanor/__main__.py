"""`python -m athanor` is the same program as `athanor`."""

from athanor.cli import main

main()
