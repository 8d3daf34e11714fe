"""Other projects' checkpoints: key maps in both directions, applied strictly."""
