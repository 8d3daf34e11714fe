"""The notebooks: no output in them, nothing but calls, and every cell runs on a CPU."""

import ast
import copy
import importlib.metadata
import json
import os
import pathlib
import re
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
NOTEBOOKS_BY_NAME = {path.stem: path for path in NOTEBOOKS}
# The size of every notebook's run here; the last line of its settings wins.
SMALL = {
    "finetune": """
SOURCE |= {"count": 64, "test_count": 32}
STEPS, BATCH = 4, 16

import jax

def count(event, seconds, *, fun_name="", **_):
    if event.endswith("backend_compile_duration") and "train_step" in fun_name:
        print("the train step was compiled")

jax.monitoring.clear_event_listeners()
jax.monitoring.register_event_duration_secs_listener(count)
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
    allowed = {"not [*importlib.metadata.distributions(name='softbio-jax')]", "'google.colab' in sys.modules"}
    for cell in cells(path):
        for node in ast.walk(ast.parse("\n".join(_python(cell)))):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)
            if isinstance(node, ast.If):
                assert ast.unparse(node.test) in allowed


def _python(cell):
    """The lines of a cell; shell commands and magics pass."""
    for line in "".join(cell["source"]).splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        yield f"{indent}pass" if line.lstrip()[:1] in ("!", "%") else line


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("installed", [False, True])
def test_the_package_is_installed_where_it_is_missing_and_nothing_is_cloned(path, installed, monkeypatch):
    (cell,) = (cell for cell in cells(path) if "%pip" in "".join(cell["source"]))
    assert not any("git clone" in "".join(cell["source"]) for cell in cells(path))
    code = "\n".join(_python(cell)).split("\n\n", 1)[0].replace("pass", "installed.append(1)")
    found = ["a distribution"] * installed
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: found)
    settings = {"importlib": importlib, "REPOSITORY": "somewhere", "installed": []}
    exec(code, settings)
    assert settings["installed"] == ([] if installed else [1])
    if not installed:
        with pytest.raises(AssertionError, match="REPOSITORY is the address"):
            exec(code, settings | {"REPOSITORY": ""})


def test_what_a_notebook_offers_is_installed():
    for path in NOTEBOOKS:
        text = path.read_text()
        (extras,) = re.findall(r"softbio_jax\[([\w,]+)\]", text)
        needs = {"predict_faces": "faces", "evaluate_zero_shot": "text", "evaluation.report": "report"}
        assert {extra for word, extra in needs.items() if word in text} <= set(extras.split(","))


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
    said = run(path, settings, times=2)
    if path.stem == "parity":
        assert said.count("every stage agrees") == 6
    else:
        assert "averages: gender" in said
    if path.stem == "finetune":
        assert said.count("the train step was compiled") == 2  # by each Plan, and by no Train
        assert "resumed from step 4" in said
        assert (tmp_path / "work" / "report" / "report.html").stat().st_size > 10_000
        assert (tmp_path / "work" / "lora.zip").exists()
        _disconnect_and_run_again(path, settings, tmp_path)


@pytest.mark.long
def test_finetune_trains_a_published_variant_of_another_family(tmp_path, monkeypatch):
    from softbio_jax.interop import formats
    from softbio_jax.interop.goldens import named_state
    from softbio_jax.interop.safe_load import save_arrays
    from softbio_jax.models.config import vision_config

    official = named_state(formats.official_shapes("dinov2-s14", text=False))
    save_arrays(
        tmp_path / "weights.safetensors",
        formats.written(vision_config("dinov2-s14"), "timm", official),
        metadata={},
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    settings = f"""
SOURCE |= {{"count": 64, "test_count": 32}}
STEPS, BATCH, IMAGE_SIZE = 2, 8, 28
VARIANT, PRETRAINED = "dinov2-s14", {str(tmp_path / "weights.safetensors")!r}
DATA, WORK = {str(tmp_path / "data")!r}, {str(tmp_path / "work")!r}
"""
    said = run(NOTEBOOKS_BY_NAME["finetune"], settings, last="show_predictions")
    assert "averages: gender" in said
    written = json.loads((tmp_path / "work/lora/config.json").read_text())
    assert written["model"] | {"variant": "dinov2-s14", "image_size": 28} == written["model"]
    metrics = json.loads((tmp_path / "work/lora/eval/metrics.json").read_text())
    assert metrics["model"]["variant"] == "dinov2-s14" and metrics["model"]["total_params"] > 22_056_192


@pytest.mark.long
def test_zero_shot_classifies_with_another_family(tmp_path, monkeypatch):
    from softbio_jax.interop import formats
    from softbio_jax.interop.goldens import named_state
    from softbio_jax.interop.safe_load import save_arrays

    towers = named_state(formats.official_shapes("tiny-clip", text=True))
    save_arrays(tmp_path / "towers.safetensors", towers, metadata={})
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    settings = (
        SMALL["zero_shot"].replace("tiny-test", "tiny-clip")
        + f"""
DATA, WORK = {str(tmp_path / "data")!r}, {str(tmp_path / "work")!r}
CHECKPOINT = {str(tmp_path / "towers.safetensors")!r}
"""
    )
    assert "averages: gender" in run(NOTEBOOKS_BY_NAME["zero_shot"], settings)


def _disconnect_and_run_again(path, settings, folder):
    """The machine is gone, and the last checkpoint was not written: what is on Drive is enough."""
    metrics = folder / "work" / "lora" / "eval" / "metrics.json"
    before = json.loads(metrics.read_text())
    shutil.rmtree(folder / "data")
    shutil.rmtree(metrics.parent)
    shutil.rmtree(folder / "work" / "lora" / "checkpoints" / "4")
    assert "resumed from step 3" in run(path, settings, last="train_and_evaluate")
    assert json.loads(metrics.read_text())["datasets"] == before["datasets"]


def run(path, settings, *, last=None, times=1):
    """Runs a notebook in one kernel, up to the cell that has the word `last`, and returns what it printed.

    Nothing may be printed to stderr, where warnings go.
    """
    import nbclient
    import nbformat

    book = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(book.cells) if tags(cell) == ["parameters"])
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    if last:
        end = next(i for i, cell in enumerate(book.cells) if last in cell.source)
        del book.cells[end + 1 :]
    book.cells = [copy.deepcopy(cell) for _ in range(times) for cell in book.cells]
    # In the notebook's own folder, where Jupyter would start it.
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    noise = [out["text"] for out in outputs if out.get("name") == "stderr"]
    assert noise == []
    assert {out["output_type"] for out in outputs} <= {"stream", "display_data", "execute_result"}
    return "\n".join(out["text"] for out in outputs if out["output_type"] == "stream")
