"""Exact algebra and stability rules on graphs."""
