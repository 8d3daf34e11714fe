"""Training compared with PyTorch: both sides from one state, on one stream of batches, after every step."""
