"""Adapters: few numbers that learn beside a frozen network, attached by wrapping its layers, stored in PEFT's layout.

Low-rank matrices (`lora.py`), scales (`scaling.py`) and keys and values that stand before a text (`prefix.py`) are put
on a network and taken off again by the same functions (`attach.py`), and read and written by the same two (`files.py`).
"""
