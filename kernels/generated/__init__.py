"""Modules written by `python -m kernels.generate`: each imports without tgc. Do not edit."""
