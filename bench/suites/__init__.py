"""The suites: each module has `workloads(device, quick) -> list[Workload]`.

A new suite is a module here and its name in SUITES.
"""

SUITES = {
    "seeds": "the timed cells of the seed programs",
    "calls": "what a call costs on 16 elements",
}
