"""The kernel IR: one program for every backend."""
