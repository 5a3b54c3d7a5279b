"""The suites: each module has `workloads(device, quick) -> list[Workload]`.

A new suite is a module here and its name in SUITES. A suite of PROCESS_SUITES runs each engine in a process of its own
and has a `main(arguments)` instead; it is run only by name.
"""

SUITES = {
    "seeds": "the timed cells of the seed programs",
    "calls": "what a call costs on 16 elements",
}

PROCESS_SUITES = {
    "cpu": "CPU engines against numpy, torch, jax, numexpr and C, by size; 15 minutes"
}
