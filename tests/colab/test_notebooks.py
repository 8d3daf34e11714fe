"""The notebooks: no output in them, nothing but calls, and every cell runs on a CPU."""

import ast
import json
import os
import pathlib
import shutil
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# The size of every notebook's run here; the last line of its settings wins.
SMALL = {
    "finetune": """
SOURCE |= {"count": 64, "test_count": 32}
STEPS, BATCH = 4, 16
""",
    "zero_shot": """
SOURCE |= {"size": 32, "count": 8, "test_count": 16}
VARIANT, BATCH = "tiny-test", 16
""",
    # timm is not among the packages of these tests; what it is compared with is a golden as well.
    "parity": """
STORED = "--variant=tiny-faces --reference=goldens --size=36x60"
LIVE = "--variant=PE-Core-T16-384 --reference=goldens"
""",
}


def cells(path, kind="code"):
    book = json.loads(path.read_text())
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def tags(cell):
    return cell["metadata"].get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_a_run_leaves_is_committed(path):
    for cell in cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_versions_come_first_and_settings_once(path):
    first, *rest = cells(path)
    assert "importlib.metadata.version" in "".join(first["source"])
    assert [tags(cell) for cell in rest].count(["parameters"]) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_there_is_no_logic_in_a_notebook(path):
    assert len(cells(path)) <= 10
    for cell in cells(path):
        for node in ast.walk(ast.parse("\n".join(_python(cell)))):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)
            if isinstance(node, ast.If):
                assert ast.unparse(node.test) == "'google.colab' in sys.modules"


def _python(cell):
    """The lines of a cell; shell commands and magics pass."""
    for line in "".join(cell["source"]).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        yield f"{indent}pass" if line.lstrip()[:1] in ("!", "%") else line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_in_colab_the_run_lies_on_drive_where_the_settings_say(path, monkeypatch):
    """The part of a notebook that only Colab runs, with Colab's module played."""
    mounted = []
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (cell,) = (cell for cell in cells(path) if "git clone" in "".join(cell["source"]))
    code = "\n".join(_python(cell)).split("import softbio_jax", 1)[0]
    settings = {"REPOSITORY": "somewhere", "WORK": "runs/mine"}
    exec(code, settings)
    assert "/content/softbio_jax" in sys.path
    if path.stem != "parity":
        assert mounted == ["/content/drive"]
        exec(code, settings)  # the cell once more, as people do
        assert settings["WORK"] == "/content/drive/MyDrive/softbio_jax/runs/mine"
    with pytest.raises(AssertionError, match="REPOSITORY is the address"):
        exec(code, {"REPOSITORY": "", "WORK": "runs/mine"})


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    from softbio_jax.interop import formats
    from softbio_jax.interop.goldens import named_state
    from softbio_jax.interop.safe_load import save_arrays

    settings = SMALL[path.stem]
    if path.stem != "parity":
        settings += f"DATA, WORK = {str(tmp_path / 'data')!r}, {str(tmp_path / 'work')!r}\n"
    if path.stem == "zero_shot":
        towers = named_state(formats.official_shapes("tiny-test", text=True))
        save_arrays(tmp_path / "towers.safetensors", towers, metadata={})
        settings += f"CHECKPOINT = {str(tmp_path / 'towers.safetensors')!r}\n"
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    said = run(path, settings)
    if path.stem == "parity":
        assert said.count("every stage agrees") == 3
    else:
        assert "averages: gender" in said
    if path.stem == "finetune":
        assert (tmp_path / "work" / "report" / "report.html").stat().st_size > 10_000
        assert (tmp_path / "work" / "lora.zip").exists()
        _disconnect_and_run_again(path, settings, tmp_path)


def _disconnect_and_run_again(path, settings, folder):
    """The machine is gone, and the last checkpoint was not written: what is on Drive is enough."""
    metrics = folder / "work" / "lora" / "eval" / "metrics.json"
    before = json.loads(metrics.read_text())
    shutil.rmtree(folder / "data")
    shutil.rmtree(metrics.parent)
    shutil.rmtree(folder / "work" / "lora" / "checkpoints" / "4")
    assert "resumed from step 3" in run(path, settings, last="train_and_evaluate")
    assert json.loads(metrics.read_text())["datasets"] == before["datasets"]


def run(path, settings, *, last=None):
    """Runs a notebook, up to the cell that has the word `last`, and returns what it printed."""
    import nbclient
    import nbformat

    book = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(book.cells) if tags(cell) == ["parameters"])
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    if last:
        end = next(i for i, cell in enumerate(book.cells) if last in cell.source)
        del book.cells[end + 1 :]
    # In the notebook's own folder, where Jupyter would start it.
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "\n".join(out["text"] for out in outputs if out["output_type"] == "stream")
