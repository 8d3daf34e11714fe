"""Builders write records, sources read them, samplers order them, the pipeline batches them."""
