"""The side-by-side benchmark: workloads, the two sides, the interleaved runner, the table."""
