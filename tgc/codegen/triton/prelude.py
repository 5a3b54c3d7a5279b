"""Functions of the host code, written here once: emitted modules contain their source, `launches` calls them."""


def lanes(n: int) -> int:
    """The least power of two that holds n elements: the width of a tile that spans a whole axis."""
    return 1 << max(n - 1, 0).bit_length()


def warps(tile: int) -> int:
    """Warps for a tile: 8 elements a thread in small tiles, 16 in large ones, at most 32 warps."""
    return min(max(tile // 512, min(tile // 256, 4), 1), 32)
