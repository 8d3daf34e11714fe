"""What a run costs before it runs: operations, memory, time."""
