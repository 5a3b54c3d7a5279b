"""Graph to kernel IR: iteration spaces, fusion, what to save, cost, regimes."""
