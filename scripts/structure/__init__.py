"""The structure of the code: read, laid out, drawn."""
