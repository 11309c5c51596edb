"""Instruction data: every usual form in and out, and problems whose answers can be checked."""
