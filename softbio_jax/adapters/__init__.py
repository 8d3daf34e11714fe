"""Low-rank adapters: configuration, arithmetic, the adapted dense layer, merging."""
