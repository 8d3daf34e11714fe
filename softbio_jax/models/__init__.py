"""Vision and text towers, heads and the multitask model: pure forward passes."""
