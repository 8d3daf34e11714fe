"""What may import what, and what importing loads.

How many modules there are and how large is in tests/test_structure.py.
"""

import ast
import collections
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

from tests.structure import PACKAGE, ROOT, imported_names, python_files, within

# From the bottom up; a module imports from lower rows, or from its own row without a cycle.
ROWS = (
    {"moved"},  # imports by name, and only when a name of 0.1 is used
    {"files", "errors", "ranges", "tasks", "registry", "console", "params", "coverage", "escaping", "safety"},
    {"adapters"},
    {"models", "losses"},
    {"checkpoints", "interop", "data"},
    {"runs"},
    {"evaluation", "planning"},
    {"train", "inference"},
    {"thesis"},
    {"command"},  # for scripts, and for notebooks, which find the files of the package by it
    {"__main__", "notebook"},
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

# Outside library -> the only places in the package that import it.
DOORS = {
    "flax.linen": ("models/", "adapters/dense.py"),
    "orbax": ("checkpoints/arrays.py",),
    "grain": ("data/loading.py",),
    "tensorflow_datasets": ("data/tfds.py",),
    "torch": ("interop/safe_load.py",),
    "pyarrow": ("data/builders/arrow.py",),
    "tensorflow": (),
    "onnx": ("inference/export/onnx.py", "inference/export/onnx_graph.py", "inference/export/onnx_int8.py"),
    "onnxruntime": ("inference/export/onnx.py", "inference/reference/", "inference/latency/"),
    "ai_edge_litert": (
        "inference/export/litert.py",
        "inference/export/litert_int8.py",
        "inference/reference/",
        "inference/latency/",
    ),
    "ai_edge_quantizer": ("inference/export/litert_int8.py",),
    "litert_converter": ("inference/export/litert.py",),
    "timm": (),
    "peft": (),
    "clu": ("runs/",),  # its writers and periodic actions import TensorFlow
}
RUN_TIME_EXTRAS = (
    "convert",
    "text",
    "hub",
    "report",
    "faces",
    "app",
    "beam",
    "onnx",
    "litert",
    "parquet",
    "wandb",
    "mlflow",
)
NAMED = {"mlflow": "mlflow-skinny"}  # module -> what installs it, where it is not installed
_VERSION = re.compile(r"\b__version__\b|\bversion_info\b|\bversion\(|\bVersion\(")
HEAVY = ("tensorflow", "torch", "jax", "flax", "grain", "orbax", "matplotlib", "cv2")


def part_of(name):
    """softbio_jax.runs.step -> train."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def place_and_part(path):
    """softbio_jax/runs/step.py -> runs/step.py, runs."""
    relative = path.relative_to(PACKAGE)
    return relative.as_posix(), relative.parts[0].removesuffix(".py")


def in_subprocess(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_part_of_the_package_has_a_row():
    parts = {place_and_part(path)[1] for path in python_files(PACKAGE)}
    assert parts - set(RANK) - {"__init__"} == set(), "give it a row in ROWS"


def test_every_folder_of_the_package_is_a_package():
    folders = {path.parent for path in python_files(PACKAGE)}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()] == []


def test_imports_point_down():
    upward = []
    for path in python_files(PACKAGE):
        place, own = place_and_part(path)
        parts = {part_of(n) for n in imported_names(path) if within(n, "softbio_jax")} - {own}
        # The top level loads nothing but the names of 0.1.
        limit = RANK["moved"] if own == "__init__" else RANK.get(own, -1)
        upward += [f"{place} imports {p}" for p in parts if p in RANK and RANK[p] > limit]
    assert upward == []


def test_outside_libraries_come_in_by_their_doors():
    strays = []
    for path in python_files(PACKAGE):
        place, _ = place_and_part(path)
        names = imported_names(path)
        for library, doors in DOORS.items():
            if any(within(name, library) for name in names) and not place.startswith(doors):
                strays.append(f"{place} imports {library}, whose doors are {doors}")
    assert strays == []


def test_no_version_is_compared():
    found = []
    for path in python_files(PACKAGE) + python_files(ROOT / "scripts"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and _VERSION.search(ast.unparse(node)):
                found.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    # The exception is not about names that moved: older versions of torch have an unsafe loader.
    (torch,) = found
    assert torch.startswith(
        "softbio_jax/interop/safe_load.py: tuple((int(part) for part in torch.__version__"
    )


def test_packages_of_one_row_do_not_import_each_other_in_a_cycle():
    edges = collections.defaultdict(set)
    for path in python_files(PACKAGE):
        _, own = place_and_part(path)
        for name in imported_names(path):
            other = part_of(name) if within(name, "softbio_jax") else None
            if other in RANK and other != own:
                edges[own].add(other)

    def cycle_through(part, trail):
        if part in trail:
            return [*trail[trail.index(part) :], part]
        found = (cycle_through(other, [*trail, part]) for other in sorted(edges[part]))
        return next((cycle for cycle in found if cycle), None)

    for part in sorted(edges):
        assert cycle_through(part, []) is None


def test_configs_import_ml_collections_alone():
    allowed = ("ml_collections", "configs", *sys.stdlib_module_names)
    for path in python_files(ROOT / "configs"):
        strangers = [n for n in imported_names(path) if not any(within(n, a) for a in allowed)]
        assert strangers == [], path.name


def test_scripts_and_configs_import_no_tensorflow():
    for path in python_files(ROOT / "scripts") + python_files(ROOT / "configs"):
        assert not any(within(name, "tensorflow") for name in imported_names(path)), path.name


def test_every_library_that_is_declared_is_imported():
    of_module = importlib.metadata.packages_distributions()
    folders = (PACKAGE, ROOT / "scripts", ROOT / "configs")
    modules = {
        name.split(".")[0]
        for folder in folders
        for path in python_files(folder)
        for name in imported_names(path)
    }
    imported = {canonical(found) for name in modules for found in of_module.get(name, [name])}
    for_others = {"importlib-resources"}  # TFDS imports it without declaring it
    assert declared_distributions() - imported == for_others


def declared_distributions(*extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"]
    for name in extras:
        lines = lines + project["optional-dependencies"][name]
    return {canonical(re.match(r"[\w.-]+", line).group()) for line in lines}


def canonical(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_library_that_the_package_imports_is_declared():
    of_package = declared_distributions(*RUN_TIME_EXTRAS)
    of_scripts = of_package | declared_distributions("parity")
    of_module = importlib.metadata.packages_distributions()
    scripts = python_files(ROOT / "scripts")
    # google.colab is part of Colab's kernels alone.
    own = {"softbio_jax", "configs", "benchmarks", "probes", "dev", "structure", "training_parity", "google"}
    own |= {path.stem for path in scripts}
    missing = {}
    for folder, declared in ((PACKAGE, of_package), (ROOT / "scripts", of_scripts)):
        for path in python_files(folder):
            if path.stem.endswith("_worker"):  # of an environment of its own
                continue
            for module in {name.split(".")[0] for name in imported_names(path)}:
                if module in sys.stdlib_module_names or module in own:
                    continue
                names = {canonical(name) for name in of_module.get(module, [NAMED.get(module, module)])}
                if not names & declared:
                    missing.setdefault(module, path.relative_to(ROOT).as_posix())
    assert missing == {}, "add it to pyproject.toml and constraints.txt"


def test_the_top_level_loads_nothing_heavy():
    code = f"""
import json, sys
import softbio_jax
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    assert in_subprocess(code) == []


def test_no_module_loads_tensorflow_or_torch():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files(PACKAGE)
    ]
    code = f"""
import importlib, json, sys
guilty = {{}}
for module in {modules}:
    importlib.import_module(module)
    for library in ("tensorflow", "torch", "timm", "peft", "onnx", "onnxruntime", "ai_edge_litert"):
        if library in sys.modules:
            guilty.setdefault(library, module)
print(json.dumps(guilty))
"""
    assert in_subprocess(code) == {}
