"""Which values lie in memory, and which kernels compute them.

Three questions, answered in this order:

1. What must lie in memory? The outputs, the operands and results of library contractions, and every fold that the
   kernels using it cannot compute in place. A fold is placed *direct* (one program reduces it whole) or *staged*
   (programs write partial results, which whoever needs the fold, or a small finishing kernel, folds up).
2. Which of these share a kernel? Those over the same space that read the same data, so that it is read once, as long
   as no other kernel has to run in between.
3. In which order do the kernels run?
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tgc.errors import UnsupportedOpError
from tgc.ir.nodes import Fold, Graph, Node, Shape
from tgc.ir.sizes import Dim, Size, product, row_major
from tgc.kernel.ir import Buffer
from tgc.kernel.walk import loaded
from tgc.schedule.contraction import contraction
from tgc.schedule.facts import Facts
from tgc.schedule.lower import SHORT, Conflict, Cut, Flat, Lowering, Placed, Root, row_folds_below
from tgc.schedule.merging import merge_axes
from tgc.schedule.target import Target
from tgc.schedule.tiling import order_axes, tile


@dataclass(eq=False)
class Group:
    """Roots that share a kernel over `space`; or, with `contracts`, one contraction."""

    roots: list[Root]
    space: tuple[Dim, ...]
    reads: set[Node] = field(default_factory=set)
    contracts: bool = False

    @property
    def writes(self) -> set[Node]:
        return {r.node for r in self.roots if not r.partial}

    @property
    def stages(self) -> set[Node]:
        return {r.node for r in self.roots if r.partial}


@dataclass
class Partition:
    """The state of the three questions. `placed` maps each node in memory to its buffer."""

    graph: Graph
    facts: Facts
    target: Target
    placed: dict[Node, Placed]
    staged: dict[Node, Placed] = field(default_factory=dict)
    roots: list[Root] = field(default_factory=list)
    contractions: list[Node] = field(default_factory=list)
    cuts: list[tuple[Node, str]] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)
    _kinds: dict[tuple[Shape, tuple[int, ...]], str] = field(default_factory=dict)

    # --- 1: what lies in memory ---

    def place_outputs(self, names: dict[Node, str]) -> None:
        """Place the graph's outputs, and whatever computing them turns out to need."""
        self._used |= {p.buffer.name for p in self.placed.values()}
        for node in dict.fromkeys(self.graph.outputs):
            if node not in self.placed:
                self._place_value(node, names.get(node, "out"), "out")
        self._settle()

    def place(self, node: Node) -> None:
        """Place a fold that a kernel turned out not to compute in place once its partial results were counted."""
        self._cut(node)
        self._settle()

    def _settle(self) -> None:
        """Place whatever computing the roots turns out to need."""
        done = 0
        while done < len(self.roots):
            root = self.roots[done]
            try:
                flat = self.lower((root,), space_of(root))
                self._try_tiling(flat)
                done += 1
                continue
            except Cut as cut:
                node = cut.node
            except Conflict:
                if not flat.inline:
                    raise
                node = flat.inline[-1]
            self._cut(node)
            done = 0  # what was lowered may now load what has just been placed

    def _try_tiling(self, flat: Flat) -> None:
        """See whether a kernel can be tiled. Only a refusal decides anything, so only its questions count."""
        facts = self.facts.trial()
        try:
            tile(order_axes(merge_axes(flat), facts), facts, self.target)
        except Conflict:
            self.facts.absorb(facts)
            raise

    def lower(self, roots: tuple[Root, ...], space: tuple[Dim, ...]) -> Flat:
        """Lower roots together, with everything placed so far in memory."""
        stages = {r.node for r in roots if r.partial}
        walk = Lowering(self.placed, self.staged, self.facts, self.target, self.graph.builder.names)
        flat = walk.flat(roots, space)
        if any(self.staged[node].buffer.name in loaded(flat.body) for node in stages):
            raise Conflict
        return flat

    def _cut(self, node: Node) -> None:
        product = contraction(node)
        if product is not None:
            self.contractions.append(node)
            self.roots = [root for root in self.roots if root.node is not node]
            for factor in (product.a, product.b):
                self._place_value(factor.source, "operand", "scratch")
            self._place_value(node, "product", "scratch", root=False)
            return
        if not isinstance(node, Fold) or (node in self.staged and node in self.placed):
            raise UnsupportedOpError(
                "this value cannot be computed by any kernel yet", line=node.line
            )
        if node in self.staged or (node not in self.placed and self._is_direct(node)):
            self._place_value(node, _stem(node), "scratch")
            return
        self.cuts.append((node, "partial results, folded in a second stage"))
        programs = self._programs(node)
        shape = (programs, *node.shape)
        name = self._unique(self.graph.builder.names.get(node, _stem(node)) + "_partial")
        buffer = Buffer(name, node.dtype, shape, row_major(shape), "partial")
        self.staged[node] = Placed(buffer, programs)
        self.roots.append(Root(node, partial=True))

    def _programs(self, node: Fold) -> Size:
        """A stand-in for the number of partial results, which tiling decides: one per kind of reduction."""
        kind = (node.args[0].shape, node.axes)
        symbol = self._kinds.setdefault(kind, f"programs_{len(self._kinds)}")
        self.facts.hints[symbol] = self.target.programs
        size = Size.symbol(symbol)
        self.facts.bound(size, self.target.programs)
        return size

    def _is_direct(self, node: Fold) -> bool:
        """Whether one program reduces each result of this fold whole: rows, or little data and no fold below."""
        operand = node.args[0]
        extent = product([operand.shape[a] for a in node.axes])
        if not any(d != 1 for d in node.shape):
            if row_folds_below(operand, self.placed, self.staged):
                return False
            return self.facts.at_most(extent, self.target.whole)
        last = max((k for k, d in enumerate(operand.shape) if d != 1), default=-1)
        return self.facts.at_most(extent, self.target.row if last in node.axes else SHORT)

    def _place_value(self, node: Node, name: str, role: str, *, root: bool = True) -> None:
        if node in self.placed:
            return
        name = self._unique(self.graph.builder.names.get(node, name))
        buffer = Buffer(name, node.dtype, node.shape, row_major(node.shape), role)
        self.placed[node] = Placed(buffer)
        if root:
            self.roots.append(Root(node))

    def _unique(self, name: str) -> str:
        stem, k = name, 1
        while name in self._used:
            name, k = f"{stem}_{k}", k + 1
        self._used.add(name)
        return name

    # --- 2: which share a kernel ---

    def groups(self) -> list[Group]:
        """The kernels and library steps, in an order in which they can run."""
        units = [self._unit(root) for root in self.roots] + [
            self._library(node) for node in self.contractions
        ]
        groups: list[Group] = []
        for unit in _in_order(units):
            home = next((g for g in reversed(groups) if self._joins(unit, g, groups)), None)
            if home is None:
                groups.append(unit)
            else:
                # Not less what it writes itself: of that it may read the partial results.
                home.reads |= unit.reads - home.writes
                home.roots += unit.roots
                home.space = max(home.space, unit.space, key=len)
        return _in_order(groups)

    def _unit(self, root: Root) -> Group:
        space = space_of(root)
        return Group([root], space, self._reads(self.lower((root,), space)))

    def _library(self, node: Node) -> Group:
        found = contraction(node)
        assert found is not None
        return Group([Root(node)], (), {found.a.source, found.b.source}, contracts=True)

    def _reads(self, flat: Flat) -> set[Node]:
        buffers = loaded(flat.body)
        return {
            node
            for where in (self.placed, self.staged)
            for node, placed in where.items()
            if placed.buffer.name in buffers
        }

    def _joins(self, unit: Group, group: Group, groups: list[Group]) -> bool:
        """Whether `unit` can run inside `group`: same space, shared data (or finishing the same kernel), no detour."""
        if unit.contracts or group.contracts or not _same_space(unit.space, group.space):
            return False
        stages = [g for g in groups if g.stages & unit.reads or g.stages & group.reads]
        if len(stages) > 1 or not (stages or unit.reads & (group.reads | group.writes)):
            return False
        if unit.reads & group.stages or _between(unit, group, groups):
            return False
        if not (unit.space and group.space) and not self._fits_one_program(unit, group):
            return False
        roots = (*group.roots, *unit.roots)
        try:
            self._try_tiling(self.lower(roots, max(unit.space, group.space, key=len)))
        except (Cut, Conflict):
            return False
        return True

    def _fits_one_program(self, unit: Group, group: Group) -> bool:
        """A single number beside an array is written by one program, which then has the whole array to do."""
        extent = product(unit.space or group.space)
        return self.facts.at_most(extent, self.target.whole)


def space_of(root: Root) -> tuple[Dim, ...]:
    """The extents a root's kernel runs over, ones left out."""
    shape = root.node.args[0].shape if root.partial else root.node.shape
    return tuple(d for d in shape if d != 1)


def _stem(node: Node) -> str:
    if isinstance(node, Fold) and isinstance(node.monoid, str):
        return "total" if node.monoid == "sum" else node.monoid
    return "value"


def _same_space(a: Shape, b: Shape) -> bool:
    short, long = sorted((a, b), key=len)
    return long[: len(short)] == short


def _between(unit: Group, group: Group, groups: list[Group]) -> bool:
    """Whether something `unit` needs must itself run after `group`."""
    makers = _makers(groups)
    stack = [g for node in unit.reads for g in makers.get(node, ()) if g is not group]
    seen: set[int] = set()
    while stack:
        g = stack.pop()
        if id(g) in seen:
            continue
        seen.add(id(g))
        needed = [m for node in g.reads for m in makers.get(node, ())]
        if group in needed:
            return True
        stack += needed
    return False


def _makers(groups: list[Group]) -> dict[Node, list[Group]]:
    makers: dict[Node, list[Group]] = {}
    for g in groups:
        for node in g.writes | g.stages:
            makers.setdefault(node, []).append(g)
    return makers


def _in_order(groups: list[Group]) -> list[Group]:
    """Groups after those they read from; otherwise in the order given."""
    makers = _makers(groups)
    out: list[Group] = []
    state: dict[int, int] = {}

    def visit(g: Group) -> None:
        if state.get(id(g)) == 2:
            return
        if state.get(id(g)) == 1:
            raise UnsupportedOpError("kernels depend on each other in a circle")
        state[id(g)] = 1
        for node in sorted(g.reads, key=lambda x: x.id):
            for maker in makers.get(node, ()):
                if maker is not g:
                    visit(maker)
        state[id(g)] = 2
        out.append(g)

    for g in groups:
        visit(g)
    return out
