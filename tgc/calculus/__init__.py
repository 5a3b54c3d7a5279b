"""Derivatives, derived by sympy from the operation table."""
