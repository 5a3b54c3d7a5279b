"""User function to graph."""
