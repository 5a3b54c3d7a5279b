"""The CPU suite's parts: `python -m bench cpu`. See bench/suites/cpu.py."""
