"""The side of PyTorch: timm's encoder, peft's adapters, torch's optimizer, and plain torch."""
