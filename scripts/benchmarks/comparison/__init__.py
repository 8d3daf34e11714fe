"""The comparison with PyTorch: cases, workloads, the interleaved runner, the results."""
