"""Measurements against numpy and torch: `python -m bench SUITE...`. See bench/__main__.py."""
