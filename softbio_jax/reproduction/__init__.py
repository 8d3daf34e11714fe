"""The thesis' comparison as one resumable study: its runs, their order, its tables."""
