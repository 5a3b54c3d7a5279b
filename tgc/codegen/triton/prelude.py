"""Functions of the host code, written here once: emitted modules contain their source, `launches` calls them."""


def lanes(n: int) -> int:
    """The least power of two that holds n elements: the width of a tile that spans a whole axis."""
    return 1 << max(n - 1, 0).bit_length()


def warps(tile: int) -> int:
    """Warps for a tile: eight elements a thread, at most 32 warps."""
    return min(max(tile // 256, 1), 32)
