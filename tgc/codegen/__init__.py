"""Kernel IR to source text: Triton and numpy."""
