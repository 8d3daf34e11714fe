"""Memory, operations and time bounds of a run before it starts."""
