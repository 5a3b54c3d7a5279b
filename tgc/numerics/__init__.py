"""The float32 stress gate, error measures in units in the last place, and sample domains."""
