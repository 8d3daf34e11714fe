"""The package's shape: the size of folders and modules, and where the thesis may be named.

tests/dev/test_reading_path.py limits what a run executes of it, tests/test_imports.py what may import
what.
"""

import collections
import re

from tests import structure
from tests.structure import PACKAGE, ROOT, SCRIPTS, place

MOST_IN_A_FOLDER = 12
MOST_COMMANDS = 18  # the modules of scripts/ itself
MOST_LINES = 350
SMALL = 40  # lines

THESIS = PACKAGE / "thesis"
# Not within a word: hypothesis, parenthesis and synthesis are other things.
THESIS_NAMED = re.compile(r"(?<![A-Za-z])(?i:thes[ei]s)|(?<=[a-z])Thes[ei]s")
DATA = {".csv", ".gz", ".npz", ".safetensors"}  # of these only the names are looked at


def test_folders_are_small():
    sizes = collections.Counter(
        path.parent for folder in (PACKAGE, SCRIPTS) for path in structure.modules(folder)
    )
    crowded = []
    for folder, size in sizes.items():
        most = MOST_COMMANDS if folder == SCRIPTS else MOST_IN_A_FOLDER
        if size > most:
            crowded.append(f"{place(folder)}: {size} modules, at most {most}")
    assert not crowded, told("merge what is read together, or move a group into a folder", crowded)


def test_modules_are_not_large():
    large = [
        f"{place(path)}: {lines} lines, at most {MOST_LINES}"
        for path in (*structure.modules(PACKAGE), *structure.modules(structure.SCRIPTS))
        if (lines := structure.line_count(path)) > MOST_LINES
    ]
    assert not large, told("move one of its ideas to a module of its own", large)


def test_no_small_module_serves_one_sibling_alone():
    users = importers()
    lonely = [
        f"{place(path)}: {lines} lines, for {place(user)} alone"
        for path in structure.modules(PACKAGE)
        if (lines := structure.line_count(path)) < SMALL and len(users[path]) == 1
        for user in users[path]
        if user.parent == path.parent and user.name != "__init__.py"
    ]
    assert not lonely, told("merge it into the module that imports it", lonely)


def test_only_the_thesis_package_names_the_thesis():
    named = []
    for path in sorted(PACKAGE.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts or THESIS in path.parents:
            continue
        if THESIS_NAMED.search(path.relative_to(PACKAGE).as_posix()):
            named.append(f"{place(path)}: its name")
        lines = [] if path.suffix in DATA else path.read_text().splitlines()
        named += [
            f"{place(path)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if THESIS_NAMED.search(line)
        ]
    assert not named, told("move it to softbio_jax/thesis, or say it without the thesis", named)


def test_only_the_thesis_package_imports_the_thesis():
    strays = [
        f"{place(path)} imports {name}"
        for path in structure.python_files(PACKAGE)
        if THESIS not in path.parents
        for name in sorted(structure.imported_names(path))
        if structure.within(name, "softbio_jax.thesis")
    ]
    assert not strays, told("softbio_jax/thesis imports the rest, never the other way", strays)


def test_no_module_is_a_bag_of_utilities():
    files = structure.python_files(PACKAGE) + structure.python_files(SCRIPTS)
    bags = [place(path) for path in files if "utils" in place(path)]
    assert not bags, told("name it after what it holds", bags)


def importers():
    """Module of the package -> the files of the package and of scripts that import it."""
    modules = {
        ".".join(path.relative_to(structure.ROOT).with_suffix("").parts): path
        for path in structure.modules(PACKAGE)
    }
    found = collections.defaultdict(set)
    for path in structure.python_files(PACKAGE) + structure.python_files(SCRIPTS):
        for name in structure.imported_names(path):
            module = modules.get(name) or modules.get(name.rpartition(".")[0])
            if module and module != path:
                found[module].add(path)
    return found


def told(what_to_do, found):
    return "\n  ".join([f"{what_to_do}:", *found])


def test_the_formatter_decides_everywhere():
    folders = [ROOT / name for name in ("softbio_jax", "scripts", "configs", "tests")]
    exempt = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (path for folder in folders for path in structure.python_files(folder))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"#\s*fmt:", line)
    ]
    assert not exempt, told("let ruff format it", exempt)
