"""The import graph: read from the code, laid out, drawn."""
