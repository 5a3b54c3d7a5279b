"""Graph to plan: place values, group roots into kernels, tile each kernel, and say what the host does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tgc.ir import nodes as n
from tgc.ir.nodes import Graph, Leaf, Node
from tgc.ir.sizes import Dim, Size, exact_quotient, product, row_major, symbols
from tgc.kernel.ir import (
    INT32_ELEMENTS,
    Binding,
    Buffer,
    Const,
    Gathered,
    Index,
    Iota,
    Kernel,
    Launch,
    Load,
    Matmul,
    Plan,
    Quotient,
    Remainder,
    Step,
    Store,
)
from tgc.kernel.walk import everything, loaded, operands, stored
from tgc.schedule import indexing as ix
from tgc.schedule.contraction import contraction
from tgc.schedule.donation import donate
from tgc.schedule.facts import Facts
from tgc.schedule.formula import formula
from tgc.schedule.lower import Cut, Placed
from tgc.schedule.merging import merge_axes
from tgc.schedule.partition import Group, Partition
from tgc.schedule.scales import absorb_scales
from tgc.schedule.target import Target
from tgc.schedule.tiling import order_axes, tile


def schedule(
    graph: Graph,
    target: Target,
    hints: Mapping[str, int],
    name: str | None = None,
    *,
    output_names: Sequence[str] = (),
    strided: Collection[str] = (),
    scalars: Collection[str] = (),
) -> Plan:
    """Lower a graph to kernels for one regime of sizes.

    Args:
        graph: simplified, legalised and expanded for the target's backend.
        target: tile sizes.
        hints: the extent of each size symbol at hand; the regime is the interval guards their answers make.
        name: of the host function.
        output_names: names for output buffers; an output node the user named keeps that name.
        strided: names of inputs whose strides are read at run time; all others are contiguous.
        scalars: names of 0-d inputs passed by value.

    Raises:
        UnsupportedOpError: the graph holds a node that no kernel computes yet.
    """
    name = name or graph.name
    graph = absorb_scales(graph)
    facts = Facts(hints)
    buffers = {leaf: _input_buffer(leaf, strided, scalars, facts) for leaf in graph.inputs}
    partition = Partition(graph, facts, target, {leaf: Placed(b) for leaf, b in buffers.items()})
    partition.place_outputs(dict(zip(graph.outputs, output_names, strict=False)))
    steps = _steps(name, partition)
    if target.offset_bits == 32:
        _ask_offsets([p.buffer for p in partition.placed.values()], facts)
    memory = [p.buffer for where in (partition.placed, partition.staged) for p in where.values()]
    plan = Plan(
        name,
        tuple(b.name for b in buffers.values()),
        tuple(partition.placed[o].buffer.name for o in graph.outputs),
        tuple(dict.fromkeys(memory)),
        _bindings(tuple(buffers.values())),
        tuple(steps),
        facts.guards(),
    )
    if not graph.writes:
        return plan
    places = {node: placed.buffer.name for node, placed in partition.placed.items()}
    return donate(plan, {places[leaf]: places[value] for leaf, value in graph.writes})


def _steps(name: str, partition: Partition) -> list[Step]:
    """The kernels and library steps, in order."""
    while True:
        groups, staged = partition.groups(), dict(partition.staged)
        kernels = sum(not g.contracts for g in groups)
        steps: list[Step] = []
        try:
            for group in groups:
                if group.contracts:
                    steps.append(_matmul(group.roots[0].node, partition))
                else:
                    count = sum(isinstance(s, Launch) for s in steps)
                    title = f"{name}_kernel" if kernels == 1 else f"{name}_kernel_{count}"
                    steps.append(Launch(_kernel(group, title, partition)))
        except Cut as cut:
            # Two stages of one kind, tiled apart, have different numbers of partial results: no kernel finishes both.
            partition.staged = staged
            partition.place(cut.node)
            continue
        return steps


def _ask_offsets(buffers: Sequence[Buffer], facts: Facts) -> None:
    """Whether offsets fit 32 bits, asked of the largest buffers alone: what divides them is smaller."""
    asked: list[Dim] = []
    for size in sorted((product(b.shape) for b in buffers), key=facts.value, reverse=True):
        if not any(exact_quotient(larger, size) is not None for larger in asked):
            facts.at_most(size, INT32_ELEMENTS)
            asked.append(size)


def _input_buffer(
    leaf: Leaf, strided: Collection[str], scalars: Collection[str], facts: Facts
) -> Buffer:
    assert isinstance(leaf.source, n.Input)
    name, strides = leaf.source.name, row_major(leaf.shape)
    if name in strided:
        for k, stride in enumerate(strides):
            facts.hints[f"{name}_stride_{k}"] = facts.value(stride)
        strides = tuple(Size.symbol(f"{name}_stride_{k}") for k in range(leaf.ndim))
    return Buffer(name, leaf.dtype, leaf.shape, strides, "scalar" if name in scalars else "in")


def _bindings(inputs: tuple[Buffer, ...]) -> tuple[Binding, ...]:
    """Where each size and stride symbol is read from: the first input dimension that is just that symbol."""
    found: dict[str, Binding] = {}
    for buffer in inputs:
        for stride, dims in ((False, buffer.shape), (True, buffer.strides)):
            for k, d in enumerate(dims):
                names = symbols(d)
                if isinstance(d, Size) and len(names) == 1 and d == Size.symbol(*names):
                    (symbol,) = names
                    if not stride or symbol == f"{buffer.name}_stride_{k}":
                        found.setdefault(symbol, Binding(symbol, buffer.name, k, stride))
    return tuple(found.values())


def _matmul(node: Node, partition: Partition) -> Matmul:
    found = contraction(node)
    assert found is not None
    a, b, out = (partition.placed[x].buffer.name for x in (found.a.source, found.b.source, node))
    return Matmul(found.subscripts, a, b, out, node.dtype)


def _kernel(group: Group, name: str, partition: Partition) -> Kernel:
    """One kernel: lower its roots, merge and order axes, tile, and store partial results by program."""
    facts, target = partition.facts, partition.target
    flat = order_axes(merge_axes(partition.lower(tuple(group.roots), group.space)), facts)
    tiled = tile(flat, facts, target)
    body = list(tiled.body)
    nodes = {p.buffer.name: node for node, p in partition.staged.items()}
    for _, store in flat.partials:
        axis = next(a for a in tiled.axes if a.split is not None)
        facts.bound(axis.programs, target.programs)
        node = nodes[store.buffer]
        staged = partition.staged[node].buffer
        buffer = Buffer(
            staged.name, node.dtype, (axis.programs, *node.shape), staged.strides, "partial"
        )
        partition.staged[node] = Placed(buffer, axis.programs)
        where = ix.scale(ix.program(axis.name), buffer.strides[0])
        body.append(replace(store, index=ix.add(store.index, where)))
    used = loaded(body) | stored(body)
    memory = {
        p.buffer.name: p.buffer for w in (partition.placed, partition.staged) for p in w.values()
    }
    kernel = Kernel(
        name,
        tiled.axes,
        tuple(b for b in memory.values() if b.name in used),
        (),
        tuple(body),
        tuple(_formulas(group, partition)),
    )
    return replace(kernel, sizes=tuple(sorted(kernel_symbols(kernel))))


def _formulas(group: Group, partition: Partition) -> list[str]:
    names = partition.graph.builder.names
    known = {**names, **{k: p.buffer.name for k, p in partition.placed.items()}}
    out = []
    for root in group.roots:
        where = partition.staged if root.partial else partition.placed
        out.append(formula(root.node, where[root.node].buffer.name, known))
    return out


def kernel_symbols(kernel: Kernel) -> set[str]:
    """The size and stride symbols a kernel's code mentions."""
    found: set[str] = set()
    for axis in kernel.axes:
        found |= symbols(axis.extent) | (symbols(axis.split) if axis.split is not None else set())
    for s in everything(kernel.body):
        if isinstance(s, Load | Store | Iota):
            found |= _index_symbols(s.index)
        for operand in operands(s):
            if isinstance(operand, Const) and isinstance(operand.value, Size):
                found |= symbols(operand.value)
    return found


def _index_symbols(index: Index) -> set[str]:
    found = symbols(index.offset)
    for term, coefficient in index.terms:
        found |= symbols(coefficient)
        if isinstance(term, Quotient | Remainder):
            found |= _index_symbols(term.index) | symbols(term.divisor)
        elif isinstance(term, Gathered):
            found |= symbols(term.extent)
    return found
