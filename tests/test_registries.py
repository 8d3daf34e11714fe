"""Registries: what is built in, what a user's package adds, and the errors of both."""

import dataclasses
import importlib.metadata
import subprocess
import sys
import textwrap
import tomllib

import pytest

from softbio_jax import registry
from softbio_jax.adapters.methods import METHODS
from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.sampling import SAMPLERS
from softbio_jax.errors import UserError
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import BALANCERS, Balancer, BalancingConfig
from softbio_jax.registry import Registry
from softbio_jax.tasks import TASKS
from tests.structure import ROOT


def test_what_is_built_in():
    assert list(METHODS) == ["lp", "ap", "ft", "full", "lora", "lora_plus", "dora", "mtlora"]
    assert set(BALANCERS) == {"uncertainty", "liebel_koerner", "running_mean", "fixed"}
    assert {"natural", "balanced", "mixture"} <= set(SAMPLERS)
    assert list(TASKS) == ["age", "gender", "emotion"]
    assert {"fairface", "rafdb", "utkface", "csv", "folder", "synthetic", "standard"} <= set(BUILDERS)


def test_what_the_project_installs_can_be_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group, names in project["entry-points"].items():
        for name, value in names.items():
            entry = importlib.metadata.EntryPoint(name=name, value=value, group=group)
            assert entry.load() is not None


def test_names_agree_with_what_they_name():
    assert {name: BUILDERS[name].name for name in BUILDERS} == {name: name for name in BUILDERS}
    assert {name: TASKS[name].name for name in TASKS} == {name: name for name in TASKS}
    assert all(name == METHODS[name].__name__ for name in METHODS)


@pytest.mark.parametrize("kind", ["uncertainty", "liebel_koerner", "running_mean", "fixed"])
def test_tasks_share_no_array_of_a_balancer(kind):
    config = BalancingConfig(kind=kind)
    for make in (balancing.init, balancing.init_means):
        leaves = [leaf for task in make(("age", "gender"), config).values() for leaf in task.values()]
        # A state that holds an array twice cannot be donated.
        assert len({id(leaf) for leaf in leaves}) == len(leaves)


class TestBadBalancer:
    def test_unknown_kind(self):
        with pytest.raises(UserError, match=r"balancing\.kind: .*uncertainty.*'fixd'; fix: write 'fi"):
            BalancingConfig(kind="fixd")

    def test_unknown_option(self):
        with pytest.raises(UserError, match=r"balancing\.options\.temperature: expected none"):
            BalancingConfig(kind="uncertainty", options={"temperature": 1.0})

    def test_what_the_config_has_a_field_for_is_no_option(self):
        with pytest.raises(UserError, match=r"balancing\.options\.momentum"):
            BalancingConfig(kind="running_mean", options={"momentum": 0.5})


def test_options_reach_a_balancer(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Balancer):
        momentum: float
        temperature: float = 2.0

    monkeypatch.setitem(BALANCERS._values, "own", Own)
    config = BalancingConfig(kind="own", momentum=0.5, options={"temperature": 3.0})
    assert balancing.balancer(config) == Own(momentum=0.5, temperature=3.0)
    with pytest.raises(UserError, match="one of temperature, found temprature; fix: write 'temper"):
        BalancingConfig(kind="own", options={"temprature": 3.0})


@pytest.fixture
def colours():
    found = Registry[int]("colour", where="pen.colour", group="test.colours")
    for name, value in (("red", 1), ("green", 2)):
        found.add(name, value)
    return found


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Returns a function that installs a package: its module's text and its entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # Looked up once per process: what a test installs must not outlive it.
    registry._entry_points.cache_clear()

    def install(name, text, entry_points):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        registry._entry_points.cache_clear()

    yield install
    registry._entry_points.cache_clear()
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


class TestRegistry:
    def test_is_a_mapping(self, colours):
        assert dict(colours) == {"red": 1, "green": 2}
        assert (len(colours), "red" in colours, "blue" in colours) == (2, True, False)
        assert (colours.get("red"), colours.get("blue"), colours.get("blue", 0)) == (1, None, 0)

    def test_an_unknown_name_is_one_line_that_names_the_key_and_the_fix(self, colours):
        with pytest.raises(
            UserError, match=r"unknown colour: pen\.colour: .*red, green, found 'x'; fix: .*--plugin="
        ):
            colours["x"]
        with pytest.raises(UserError, match=r"fix: write 'green'.*--plugin=MODULE"):
            colours["gren"]

    def test_a_name_is_registered_once(self, colours):
        colours.add("red", 1)
        with pytest.raises(UserError, match=r"colour registered twice: red: .*fix: rename"):
            colours.register("red")(3)
        assert colours["red"] == 1

    def test_an_installed_package_adds_a_value_which_is_imported_when_it_is_used(self, colours, installed):
        installed("bluish", "BLUE = 3", "[test.colours]\nblue = bluish:BLUE\n")
        assert list(colours) == ["red", "green", "blue"] and len(colours) == 3
        assert "bluish" not in sys.modules
        assert colours["red"] == 1 and "bluish" not in sys.modules
        assert (colours["blue"], colours["blue"]) == (3, 3)

    def test_an_installed_package_does_not_replace_a_value(self, colours, installed):
        installed("reddish", "RED = 9", "[test.colours]\nred = reddish:RED\n")
        with pytest.raises(UserError, match="colour registered twice: red"):
            colours["red"]

    def test_two_installed_packages_of_one_name(self, colours, installed):
        installed("first", "BLUE = 3", "[test.colours]\nblue = first:BLUE\n")
        installed("second", "BLUE = 4", "[test.colours]\nblue = second:BLUE\n")
        with pytest.raises(UserError, match="colour registered twice: blue"):
            colours["blue"]

    @pytest.mark.parametrize("text", ["", "import no_such_library", "BLUE ="])
    def test_a_broken_installed_package_is_one_line(self, colours, installed, text):
        installed("broken", text, "[test.colours]\nblue = broken:BLUE\n")
        with pytest.raises(UserError, match=r"cannot be imported: blue = broken:BLUE: .*fix: reinstall"):
            colours["blue"]


class TestPlugin:
    @pytest.mark.parametrize(
        ("module", "text", "message"),
        [
            ("no_such_plugin", "", r"cannot be imported: --plugin=no_such_plugin: .*fix: .*PYTHONPATH"),
            ("spoiled", "def", r"cannot be imported: --plugin=spoiled: .*invalid syntax"),
            ("needy", "import no_such_library", r"--plugin=needy: found No module named 'no_such_library'"),
            ("my/plugin.py", "", r"plugin is not a module: --plugin=my/plugin\.py: expected a dotted name"),
        ],
    )
    def test_one_that_cannot_be_imported_is_one_line(self, tmp_path, monkeypatch, module, text, message):
        monkeypatch.syspath_prepend(str(tmp_path))
        if text:
            (tmp_path / f"{module}.py").write_text(text)
        with pytest.raises(UserError, match=message):
            registry.load_plugin(module)

    def test_a_command_reports_it_in_one_line(self):
        command = [sys.executable, "scripts/plan.py", "--config=configs/demo.py", "--plugin=no_such_plugin"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1
        assert done.stderr.startswith("error: plugin cannot be imported: --plugin=no_such_plugin")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("joined", ["age,gender", "age + gender"])
def test_several_names_in_one_are_told_as_a_tuple(joined):
    with pytest.raises(UserError, match=r"fix: write several names as a tuple, \('age', 'gender'\)"):
        TASKS[joined]
