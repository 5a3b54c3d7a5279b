"""Does a kernel keep the rules of the IR? Run after every pass that makes or changes one.

An error names the kernel and the pass, and shows the offending statement between its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.errors import Line, VerifyError
from tgc.ir import dtypes
from tgc.ir.build import result_dtype
from tgc.ir.dtypes import DType
from tgc.ir.nodes import BASIC_MONOIDS
from tgc.ir.ops import OPS
from tgc.ir.sizes import Dim, Size, product, symbols
from tgc.kernel.ir import (
    Buffer,
    Const,
    Index,
    Iota,
    Kernel,
    Load,
    Loop,
    Matmul,
    Op,
    Operand,
    Plan,
    Quotient,
    Reduce,
    Remainder,
    Statement,
    Store,
)
from tgc.kernel.text import print_body
from tgc.kernel.walk import (
    everything,
    executions,
    gathered,
    gathers,
    index_axes,
    index_programs,
    may_overwrite,
    outer_axes,
)

READ_ONLY = ("in", "scalar")


def verify(plan: Plan, stage: str = "schedule") -> None:
    """Check a plan and its kernels, in order of launch.

    Raises:
        VerifyError: a rule is broken; `stage` is the pass to blame.
    """
    names = [b.name for b in plan.buffers]
    _plan_rule(len(set(names)) == len(names), plan, stage, "two buffers have one name")
    known = {b.name: b for b in plan.buffers}
    for name in (*plan.inputs, *plan.outputs):
        _plan_rule(name in known, plan, stage, f"{name} is no buffer")
    for name in plan.inputs:
        _plan_rule(
            known[name].role in READ_ONLY,
            plan,
            stage,
            f"the input {name} has role {known[name].role}",
        )
    bound = [b.name for b in plan.bindings]
    _plan_rule(len(set(bound)) == len(bound), plan, stage, "a size is bound twice")
    for binding in plan.bindings:
        rank = len(known[binding.buffer].shape) if binding.buffer in plan.inputs else 0
        _plan_rule(
            binding.dim < rank, plan, stage, f"size {binding.name} is bound to no input's dimension"
        )
    for b in plan.buffers:
        for d in b.shape if b.role not in READ_ONLY else ():
            _plan_rule(
                symbols(d) <= set(bound), plan, stage, f"the shape of {b.name} has unbound sizes"
            )
    _steps(plan, known, set(bound), stage)


def _steps(plan: Plan, known: dict[str, Buffer], bound: set[str], stage: str) -> None:
    """Every step reads what is written before it and writes what nobody wrote."""
    written = set(plan.inputs)
    for step in plan.steps:
        if isinstance(step, Matmul):
            reads, writes = [step.a, step.b], [step.out]
        else:
            kernel = step.kernel
            verify_kernel(kernel, stage)
            for b in kernel.buffers:
                _plan_rule(
                    known.get(b.name) == b,
                    plan,
                    stage,
                    f"{kernel.name}: {b.name} is not the plan's buffer",
                )
            _plan_rule(
                set(kernel.sizes) <= bound,
                plan,
                stage,
                f"{kernel.name} takes sizes the plan does not bind",
            )
            found = list(everything(kernel.body))
            reads = [s.buffer for s in found if isinstance(s, Load)]
            writes = list(dict.fromkeys(s.buffer for s in found if isinstance(s, Store)))
        for name in (*reads, *writes):
            _plan_rule(name in known, plan, stage, f"a step uses {name}, which is no buffer")
        for name in reads:
            _plan_rule(
                name in written or name in writes,
                plan,
                stage,
                f"{name} is read before it is written",
            )
        for name in writes:
            _plan_rule(name not in written, plan, stage, f"{name} is written twice")
        written |= set(writes)
    for name in plan.outputs:
        _plan_rule(name in written, plan, stage, f"the output {name} is never written")
    aliases = {b.name: b.alias for b in plan.buffers if b.alias is not None}
    for name, alias in aliases.items():
        donated = (alias, name) in plan.writes
        _plan_rule(donated, plan, stage, f"{name} lies in {alias}, which is not donated to it")
    for given, name in plan.writes:
        fits = given in plan.inputs and name in plan.outputs
        _plan_rule(fits, plan, stage, f"{given} holds {name}, which is no output")


def _plan_rule(holds: bool, plan: Plan, stage: str, message: str) -> None:
    if not holds:
        raise VerifyError(f"plan {plan.name}, after {stage}: {message}")


def verify_kernel(kernel: Kernel, stage: str = "schedule") -> None:
    """Check one kernel.

    Raises:
        VerifyError: a rule is broken.
    """
    _Check(kernel, stage).run()


@dataclass
class _Check:
    kernel: Kernel
    stage: str
    values: dict[str, tuple[DType, tuple[str, ...]]] = field(default_factory=dict)
    loops: list[str] = field(default_factory=list)
    stored: dict[str, list[Dim]] = field(default_factory=dict)
    defined: set[str] = field(default_factory=set)
    current: Statement | None = None

    def run(self) -> None:
        self._axes()
        self._body(self.kernel.body)
        self.current = None
        for buffer in self.kernel.buffers:
            if buffer.role not in READ_ONLY and buffer.name in self.stored:
                self._covered(buffer)
            if buffer.alias is not None:
                fits = may_overwrite(self.kernel, buffer.alias, buffer.name)
                self.rule(fits, f"{buffer.name} overwrites {buffer.alias}, which is still read")

    # --- messages ---

    def rule(self, holds: bool, message: str) -> None:
        if not holds:
            line: Line | None = getattr(self.current, "line", None)
            raise VerifyError(
                f"kernel {self.kernel.name}, after {self.stage}: {message}\n{self._neighbours()}",
                line=line,
            )

    def _neighbours(self) -> str:
        """The lines around the offending statement, which is marked."""
        lines = list(print_body(self.kernel.body))
        found = (i for i, s in enumerate(everything(self.kernel.body)) if s is self.current)
        marked = next(found, -1)
        low, high = (max(0, marked - 3), marked + 4) if marked >= 0 else (0, 8)
        shown = list(enumerate(lines))[low:high]
        return "\n".join(f"  {'>' if i == marked else ' '} {line}" for i, line in shown)

    # --- axes ---

    def _axes(self) -> None:
        names = [a.name for a in self.kernel.axes]
        self.rule(len(set(names)) == len(names), "two axes have one name")
        for a in self.kernel.axes:
            self.rule(a.kind in ("grid", "lane", "loop"), f"axis {a.name} is of no known kind")
            fits = isinstance(a.block, int | None) if a.kind == "lane" else a.block is not None
            self.rule(fits, f"axis {a.name}: a {a.kind} axis and block {a.block}")
            self.rule(
                a.split is None or a.kind == "loop", f"axis {a.name}: only a loop axis is split"
            )
            self.rule(
                not isinstance(a.block, int) or a.block > 0, f"axis {a.name}: block {a.block}"
            )
            self._sizes(a.extent, f"the extent of {a.name}")
        buffers = [b.name for b in self.kernel.buffers]
        self.rule(len(set(buffers)) == len(buffers), "two buffers have one name")
        for b in self.kernel.buffers:
            self.rule(
                len(b.shape) == len(b.strides),
                f"{b.name}: {len(b.shape)} dimensions, {len(b.strides)} strides",
            )

    def _sizes(self, dim: Dim, what: str) -> None:
        unknown = symbols(dim) - set(self.kernel.sizes)
        self.rule(
            not unknown,
            f"{what} mentions {', '.join(sorted(unknown))}, not among the kernel's sizes",
        )

    def _visible(self) -> set[str]:
        return {a.name for a in self.kernel.axes if a.kind != "loop"} | set(self.loops)

    def _known(self, axes: tuple[str, ...]) -> None:
        unknown = set(axes) - {a.name for a in self.kernel.axes}
        self.rule(not unknown, f"unknown axes {', '.join(sorted(unknown))}")
        self.rule(len(set(axes)) == len(axes), f"an axis occurs twice in {axes}")
        hidden = set(axes) - self._visible()
        self.rule(not hidden, f"loop axes {', '.join(sorted(hidden))} outside of their loop")

    # --- statements ---

    def _body(self, body: tuple[Statement, ...]) -> None:
        for s in body:
            self.current = s
            if isinstance(s, Load):
                self._load(s)
            elif isinstance(s, Iota):
                self._iota(s)
            elif isinstance(s, Op):
                self._op(s)
            elif isinstance(s, Reduce):
                self._reduce(s)
            elif isinstance(s, Store):
                self._store(s)
            else:
                self._loop(s)

    def _define(self, s: Load | Iota | Op | Reduce) -> None:
        self.rule(s.name not in self.defined, f"{s.name} is defined twice")
        self.defined.add(s.name)
        self.values[s.name] = (s.dtype, s.axes)

    def _operand(self, operand: Operand) -> tuple[DType, set[str]]:
        if isinstance(operand, Const):
            if isinstance(operand.value, Size):
                self._sizes(operand.value, "a constant")
            return operand.dtype, set()
        self.rule(operand in self.values, f"{operand} is not defined here")
        dtype, axes = self.values[operand]
        return dtype, set(axes)

    def _index(self, index: Index) -> set[str]:
        """The axes of an index, its parts checked."""
        found: set[str] = set()
        self._sizes(index.offset, "an index")
        names = [t for t, _ in index.terms if isinstance(t, str)]
        self.rule(len(set(names)) == len(names), "an axis occurs twice in an index")
        for term, coefficient in index.terms:
            self.rule(coefficient != 0, "a term with coefficient 0")
            self._sizes(coefficient, "an index")
            if isinstance(term, Quotient | Remainder):
                self._sizes(term.divisor, "an index")
                found |= self._index(term.index)
        for axis in index_axes(index):
            self.rule(axis in self._visible(), f"axis {axis} is not visible here")
        for name in index_programs(index):
            self.rule(name in outer_axes(self.kernel), f"no programs lie along {name}")
        for term in gathers(index):
            self._sizes(term.extent, "an index")
            dtype, axes = self._operand(term.value)
            self.rule(
                dtype.kind in ("int", "uint"),
                f"the index {term.value} is {dtype.short}, not an integer",
            )
            found |= axes
        return found | index_axes(index)

    def _buffer(self, name: str) -> Buffer:
        self.rule(any(b.name == name for b in self.kernel.buffers), f"there is no buffer {name}")
        return self.kernel.buffer(name)

    def _load(self, s: Load) -> None:
        buffer, axes = self._buffer(s.buffer), self._index(s.index)
        if s.mask is not None:
            dtype, more = self._operand(s.mask)
            self.rule(dtype is dtypes.bool_, f"the mask {s.mask} is {dtype.short}, not bool")
            axes |= more
        self.rule(buffer.dtype is s.dtype, f"a load of {buffer.dtype.short} as {s.dtype.short}")
        self._same_axes(s.axes, axes)
        self._define(s)

    def _iota(self, s: Iota) -> None:
        self.rule(s.dtype.kind in ("int", "uint"), f"an iota of {s.dtype.short}")
        self._same_axes(s.axes, self._index(s.index))
        self._define(s)

    def _op(self, s: Op) -> None:
        self.rule(s.op in OPS, f"unknown operation {s.op}")
        spec = OPS[s.op]
        self.rule(len(s.args) == spec.arity, f"{s.op} takes {spec.arity} operands")
        found = [self._operand(a) for a in s.args]
        self._same_axes(s.axes, set().union(*(axes for _, axes in found)))
        values = [dtype for dtype, _ in found]
        if s.op == "where":
            self.rule(values[0] is dtypes.bool_, "the condition of where must be bool")
            values = values[1:]
        self.rule(
            len(set(values)) == 1, f"{s.op}: operands are {', '.join(v.short for v in values)}"
        )
        self.rule(values[0].kind in spec.accepts, f"{s.op} is not defined for {values[0].short}")
        wanted = s.dtype if spec.result == "cast" else result_dtype(spec, values[0])
        self.rule(
            s.dtype is wanted,
            f"{s.op} of {values[0].short} gives {wanted.short}, not {s.dtype.short}",
        )
        self._define(s)

    def _fold(self, s: Reduce, allowed: set[str]) -> None:
        self.rule(s.monoid in BASIC_MONOIDS, f"unknown monoid {s.monoid}")
        dtype, axes = self._operand(s.value)
        self.rule(bool(s.over) and set(s.over) <= allowed, f"cannot fold over {s.over} here")
        self._same_axes(s.axes, axes - set(s.over))
        self.rule(
            s.dtype is dtype, f"a fold of {dtype.short} gives {dtype.short}, not {s.dtype.short}"
        )
        logical = s.monoid in ("any", "all")
        self.rule(not logical or dtype is dtypes.bool_, f"{s.monoid} of {dtype.short}")

    def _reduce(self, s: Reduce) -> None:
        self._fold(s, {a.name for a in self.kernel.axes if a.kind == "lane"})
        self._define(s)

    def _same_axes(self, axes: tuple[str, ...], wanted: set[str]) -> None:
        self._known(axes)
        self.rule(
            set(axes) == wanted, f"axes {axes}, but its operands have {tuple(sorted(wanted))}"
        )

    def _loop(self, s: Loop) -> None:
        axis = next((a for a in self.kernel.axes if a.name == s.axis), None)
        self.rule(axis is not None and axis.kind == "loop", f"{s.axis} is no loop axis")
        self.rule(s.axis not in self.loops, f"a loop over {s.axis} inside another")
        outside = dict(self.values)
        self.loops.append(s.axis)
        self._body(s.body)
        self.current = s
        lanes = {a.name for a in self.kernel.axes if a.kind == "lane"}
        for fold in s.folds:
            self.current = fold
            self.rule(
                s.axis in fold.over, f"a fold of the loop over {s.axis} that does not reduce it"
            )
            self._fold(fold, lanes | {s.axis})
        self.loops.pop()
        self.values = outside
        for fold in s.folds:
            self.current = fold
            self._known(fold.axes)
            self._define(fold)

    # --- stores ---

    def _store(self, s: Store) -> None:
        buffer = self._buffer(s.buffer)
        self.rule(buffer.role not in READ_ONLY, f"{s.buffer} is read only")
        dtype, axes = self._operand(s.value)
        self.rule(dtype is buffer.dtype, f"a store of {dtype.short} into {buffer.dtype.short}")
        inside = self._index(s.index)
        self._same_axes(s.axes, axes | inside)
        mentioned = index_axes(s.index)
        for name in s.axes:
            one = self.kernel.axis(name).extent == 1 or gathered(s.index)
            self.rule(
                name in mentioned or bool(one),
                f"elements are written once per {name}: its index lacks it",
            )
        programs = index_programs(s.index)
        for name in outer_axes(self.kernel):
            several = self.kernel.axis(name).programs != 1
            known = name in mentioned or name in programs or not several or gathered(s.index)
            self.rule(bool(known), f"every program along {name} writes the same elements")
        for name in self.loops:
            self.rule(
                name in mentioned or name in programs,
                f"every turn of the loop over {name} writes this",
            )
        self.stored.setdefault(s.buffer, []).append(
            executions(self.kernel, s.axes, tuple(self.loops))
        )

    def _covered(self, buffer: Buffer) -> None:
        """As many elements are written as there are, where that can be told."""
        written: Dim = 0
        for amount in self.stored[buffer.name]:
            written = written + amount
        missing = product(buffer.shape) - written
        opaque = isinstance(missing, Size) and any(
            not isinstance(atom, str) for mono, _ in missing.terms for atom in mono
        )
        self.rule(
            missing == 0 or opaque,
            f"{written} elements of {buffer.name} are written, it has {product(buffer.shape)}",
        )
