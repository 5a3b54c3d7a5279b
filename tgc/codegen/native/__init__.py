"""LLVM code for the CPU from kernel plans."""
