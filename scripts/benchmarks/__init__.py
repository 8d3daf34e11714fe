"""Benchmarks: the comparison with PyTorch, the data pipeline, cached features, checkpoints."""
