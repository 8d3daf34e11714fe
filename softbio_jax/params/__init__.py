"""Parameter trees: paths, partition by predicate, counts."""
