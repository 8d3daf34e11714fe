"""What can be extended by name: methods, balancers, data sets, samplers, tasks, prompt sets.

A package of a user's own extends each of them without a checkout of this one. Either it names what
it adds in an entry-point group, such as `softbio_jax.methods`, or it registers it where it is
defined and the user names that module on the command line: `--plugin=my_package.my_module`. Data
(a configuration, a checkpoint, a saved model) never names a module to import.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from softbio_jax.errors import UserError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Values by name: those registered, in that order, then those of installed packages.

    A value of an installed package is imported when it is looked up, not when names are listed.

    >>> METHODS = Registry[str]("method", where="method.name", group="example.methods")
    >>> _ = METHODS.add("lora", "low rank")
    >>> METHODS["lroa"]
    Traceback (most recent call last):
    softbio_jax.errors.UserError: unknown method: method.name: expected one of lora, found 'lroa'; \
fix: write 'lora'

    Args:
      kind: what a value is called in messages.
      where: the configuration key or flag that names one.
      group: the entry-point group by which installed packages add values.
    """

    def __init__(self, kind: str, *, where: str, group: str):
        self._kind, self._where, self._group = kind, where, group
        self._values: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that adds what it decorates under a name; see `add`."""
        return functools.partial(self.add, name)

    def add(self, name: str, value: T) -> T:
        """Adds a value under a name and returns it.

        Raises:
          UserError: the name is taken by another value.
        """
        before = self._values.setdefault(name, value)
        if before is not value:
            found = " and ".join(f"{getattr(v, '__module__', v)}" for v in (before, value))
            raise UserError(
                f"{self._kind} registered twice", where=name, found=found, fix="rename one of them"
            )
        return value

    def __getitem__(self, name: str) -> T:
        if name not in self._values and (entry := _entry_points(self._group).get(name)) is not None:
            try:
                self._values[name] = entry.load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"installed {self._kind} cannot be imported",
                    where=f"{name} = {entry.value}",
                    found=str(error),
                    fix="reinstall or remove the package that provides it",
                ) from error
        if name not in self._values:
            raise UserError(
                f"unknown {self._kind}",
                where=self._where,
                expected=f"one of {', '.join(self)}",
                found=repr(name),
                fix=nearest(name, self, otherwise="choose one of them, or pass --plugin=MODULE"),
            )
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in _entry_points(self._group)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._values, **_entry_points(self._group)})

    def __len__(self) -> int:
        return len(self._values.keys() | _entry_points(self._group).keys())


def load_plugin(module: str) -> None:
    """Imports a module that registers what it defines.

    Args:
      module: its dotted name.

    Raises:
      UserError: it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            "plugin cannot be imported",
            where=f"--plugin={module}",
            found=str(error),
            fix="install its package, or add its folder to PYTHONPATH",
        ) from error


@functools.cache
def _entry_points(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
