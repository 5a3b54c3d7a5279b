"""The graph IR: types, nodes, the operation table, text, verification, rewriting, reference evaluation."""
