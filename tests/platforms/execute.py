"""Executes a notebook as it is shipped; runs in the platform's environment.

    python execute.py NOTEBOOK FOLDER SETTINGS

FOLDER takes the place of /content; of /content/drive, which the package knows, SOFTBIO_DRIVE does. SETTINGS,
in JSON, are set after the notebook's own. Colab's module is mocked, except where the variables are Kaggle's.
"""

import json
import os
import pathlib
import sys

import nbclient
import nbformat

COLAB = """
import sys
import types

import google  # protobuf's, in which Colab's module lies

google.colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
google.colab.drive = types.SimpleNamespace(mount=lambda place: print("mounted", place))
google.colab.output = types.SimpleNamespace()  # jax imports it wherever google.colab is
google.colab.files = types.SimpleNamespace(download=lambda file: print("downloaded", file))
"""


def main(notebook, folder, settings):
    text = pathlib.Path(notebook).read_text().replace("/content", folder)
    book = nbformat.reads(text, as_version=4)
    place = next(i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
    values = "\n".join(f"{name} = {value!r}" for name, value in json.loads(settings).items())
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    if "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        book.cells.insert(0, nbformat.v4.new_code_cell(COLAB))
    client = nbclient.NotebookClient(book, timeout=1800, resources={"metadata": {"path": folder}})
    client.execute()
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            print(output.get("text") or output.get("data", {}).get("text/plain", ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
