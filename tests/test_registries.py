"""What lies in a folder of extensions is registered, and nothing else is."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

from softbio_jax.adapters import methods
from softbio_jax.adapters.methods import Method
from softbio_jax.data import builders
from softbio_jax.data.prepare.base import FaceBuilder
from softbio_jax.errors import UserError
from softbio_jax.losses import balancing
from softbio_jax.losses.balancing import Balancer, BalancingConfig

REGISTRIES = {methods: methods.METHODS, builders: builders.BUILDERS, balancing: balancing.BALANCERS}


def extensions(folder):
    """The names of what the folder's own modules define to be registered."""
    for file in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{file.name}")
        for name, found in vars(module).items():
            if getattr(found, "__module__", None) != module.__name__ or name.startswith("_"):
                continue
            if inspect.isclass(found):
                registers = issubclass(found, FaceBuilder | Balancer)
            else:
                registers = inspect.get_annotations(found).get("return") is Method
            if registers:
                yield name


@pytest.mark.parametrize("folder", REGISTRIES, ids=lambda folder: folder.__name__)
def test_what_the_folder_defines_is_registered_and_nothing_else(folder):
    registered = sorted(found.__name__ for found in REGISTRIES[folder].values())
    assert registered == sorted({*extensions(folder)} - {"FaceBuilder"}), f"import it in {folder.__name__}"


def test_what_is_registered_is_known_by_its_own_name():
    for registry, key in ((builders.BUILDERS, "name"), (balancing.BALANCERS, "kind")):
        assert {name: getattr(found, key) for name, found in registry.items()} == {
            name: name for name in registry
        }
    assert all(name == build.__name__ for name, build in methods.METHODS.items())


def test_methods_are_told_from_the_fewest_parameters_on():
    assert list(methods.METHODS) == ["lp", "ap", "ft", "full", "lora", "lora_plus", "dora", "mtlora"]


@pytest.mark.parametrize("kind", balancing.BALANCERS)
def test_each_task_has_values_of_its_own(kind):
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
        kind = "own"
        momentum: float
        temperature: float = 2.0

    monkeypatch.setitem(balancing.BALANCERS, "own", Own)
    config = BalancingConfig(kind="own", momentum=0.5, options={"temperature": 3.0})
    assert balancing.balancer(config) == Own(momentum=0.5, temperature=3.0)
    with pytest.raises(UserError, match="one of temperature, found temprature; fix: write 'temper"):
        BalancingConfig(kind="own", options={"temprature": 3.0})
