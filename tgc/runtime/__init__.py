"""Build, cache, launch, dispatch, torch autograd."""
