"""What can be extended by name: methods, balancers, data sets, samplers and tasks.

A user's own package extends each of them without a checkout of this one. Either it declares an
entry point in a group such as `softbio_jax.methods`, or it registers what it defines and the user
names that module on the command line: `--plugin=my_package.my_module`. Data (a configuration, a
checkpoint, a saved model) never names a module to import.
"""

import collections
import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from softbio_jax.errors import UserError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Values by name: the registered ones in their order, then those of installed packages.

    Listing the names imports nothing; a value of an installed package is imported when it is looked
    up.

    >>> METHODS = Registry[str]("method", where="method.name", group="example.methods")
    >>> _ = METHODS.add("lora", "low rank")
    >>> METHODS["lroa"]
    Traceback (most recent call last):
    softbio_jax.errors.UserError: unknown method: method.name: expected one of lora, found 'lroa'; \
fix: write 'lora'; or pass --plugin=MODULE of the package that registers it

    Args:
      kind: what a value is called in messages.
      where: the configuration key or flag that names one.
      group: the entry-point group of this kind.
    """

    def __init__(self, kind: str, *, where: str, group: str):
        self._kind, self._where, self._group = kind, where, group
        self._values: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that adds the decorated object under a name; see `add`."""
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
        for entry in _entry_points(self._group).get(name, ()):
            self.add(name, self._load(entry))
        if name not in self._values:
            raise UserError(
                f"unknown {self._kind}",
                where=self._where,
                expected=f"one of {', '.join(self)}",
                found=repr(name),
                fix=self._fix(name),
            )
        return self._values[name]

    def _fix(self, name: str) -> str:
        several = tuple(part.strip() for part in name.replace("+", ",").split(","))
        if several[1:] and all(part in self for part in several):
            return f"write several names as a tuple, {several}"
        near = nearest(name, self, otherwise="choose one of them")
        return f"{near}; or pass --plugin=MODULE of the package that registers it"

    def _load(self, entry: importlib.metadata.EntryPoint) -> T:
        try:
            return cast(T, entry.load())
        except (ImportError, AttributeError, SyntaxError) as error:
            raise UserError(
                f"installed {self._kind} cannot be imported",
                where=f"{entry.name} = {entry.value}",
                found=str(error),
                fix="reinstall or remove the package that provides it",
            ) from error

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of a name, or `default` for an unknown one."""
        return self[name] if name in self else default  # noqa: SIM401 (this is get)

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in _entry_points(self._group)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._values, *_entry_points(self._group)]))

    def __len__(self) -> int:
        return len(self._values.keys() | _entry_points(self._group).keys())


def load_plugin(module: str) -> None:
    """Imports a module, given by its dotted name, that registers what it defines.

    Raises:
      UserError: it cannot be imported.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UserError(
            "plugin is not a module",
            where=f"--plugin={module}",
            expected="a dotted name such as my_package.my_module",
            fix="write its name, without .py, and add its folder to PYTHONPATH",
        )
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError(
            "plugin cannot be imported",
            where=f"--plugin={module}",
            found=str(error),
            fix="install its package, or add its folder to PYTHONPATH",
        ) from error


@functools.cache
def _entry_points(group: str) -> Mapping[str, Sequence[importlib.metadata.EntryPoint]]:
    """Returns name -> the entry points of that name: two of them that differ are an error."""
    found = collections.defaultdict[str, list[importlib.metadata.EntryPoint]](list)
    for entry in importlib.metadata.entry_points(group=group):
        found[entry.name].append(entry)
    return dict(found)
