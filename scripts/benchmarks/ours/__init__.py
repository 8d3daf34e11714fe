"""The sides of this package: each module prepares one kind of work."""
