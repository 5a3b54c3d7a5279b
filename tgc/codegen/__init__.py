"""Kernel IR to source text: numpy, LLVM and Triton."""
