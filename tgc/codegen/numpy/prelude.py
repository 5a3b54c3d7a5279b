"""What emitted modules take from tgc's runtime where it is there, and what stands in for it where it is not."""

from __future__ import annotations

from tgc.codegen.numpy.functions import calls

RUNTIME = ("empty", "parallel", "quiet")


def prelude(body: str) -> list[str]:
    """The paragraphs that define those of the runtime's functions that `body` calls."""
    calls_empty = calls("empty", body)
    calls_parallel = calls("parallel", body)
    decorates = "@quiet" in body
    if not (calls_empty or calls_parallel or decorates):
        return []
    lines = ["try:"]
    if calls_empty:
        lines.append("    from tgc.runtime.memory import empty")
    if decorates:
        lines.append("    from tgc.runtime.quiet import quiet")
    if calls_parallel:
        lines.append("    from tgc.runtime.workers import parallel")
    lines.append("except ImportError:  # numpy alone: fresh memory and one thread")
    if calls_empty:
        lines.append("    empty = np.empty")
    if decorates:
        lines.append('    quiet = np.errstate(all="ignore")')
    if calls_parallel:
        lines += [
            *([""] if calls_empty or decorates else []),
            "    def parallel(function, programs, grain, *shared):",
            "        function(*shared, 0, programs)",
        ]
    return ["\n".join(lines)]
