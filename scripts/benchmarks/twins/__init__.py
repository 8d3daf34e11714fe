"""The sides of PyTorch with timm and peft: each module prepares one kind of work."""
