"""Values of configurations, checked against the types and ranges of the fields that hold them.

A field states its range in its type and its meaning in the comment beside it. The checks, their
messages, the API pages and `softbio-jax config` read them there.

>>> @dataclasses.dataclass(frozen=True, kw_only=True)
... class Settings:
...     steps: Annotated[int, Range(1, 1000)]
...     rate: Annotated[float, Range(0, 1, below=True)] = 0.5
...     def __post_init__(self):
...         check_fields(self, "settings")
>>> Settings(steps=0)
Traceback (most recent call last):
softbio_jax.errors.UserError: bad config value: settings.steps: expected an integer from 1 to 1,000, \
found 0; fix: correct the value
"""

import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from softbio_jax.errors import UserError, nearest

_LONGEST_NAME = 200  # characters
_REPEATED = re.compile(r"\)[*+{]")


class Rule:
    """What a value of the right type must also be; `str` describes it after the type's name."""

    def holds(self, value: Any) -> bool:
        """Returns whether a value conforms."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Range(Rule):
    """Finite numbers from low to high, both included unless `above` (low) or `below` (high)."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        low = self.low < value if self.above else self.low <= value
        return low and (value < self.high if self.below else value <= self.high)  # false for NaN

    def __str__(self) -> str:
        low, high = (f"{end:,.0f}" if end == int(end) else f"{end:g}" for end in (self.low, self.high))
        if not self.above and not self.below:
            return f"from {low} to {high}"
        return f"{'above' if self.above else 'from'} {low} and {'below' if self.below else 'at most'} {high}"


@dataclasses.dataclass(frozen=True)
class Name(Rule):
    """Texts that are not empty, and have no slash if they are part of a path."""

    slash: bool = False

    def holds(self, value: Any) -> bool:
        printable = bool(value.strip()) and len(value) <= _LONGEST_NAME and value.isprintable()
        return printable and (self.slash or "/" not in value)

    def __str__(self) -> str:
        return f"of 1 to {_LONGEST_NAME} printable characters" + ("" if self.slash else " without a slash")


@dataclasses.dataclass(frozen=True)
class Pattern(Rule):
    """Regular expressions, without repeated groups: matching these can take exponential time."""

    def holds(self, value: Any) -> bool:
        try:
            return bool(re.compile(value).pattern) and not _REPEATED.search(value)
        except (re.error, RecursionError, OverflowError):
            return False

    def __str__(self) -> str:
        return "that is a regular expression without a repeated group"


@dataclasses.dataclass(frozen=True)
class Distinct(Rule):
    """Tuples of `least` to `most` values of which none is repeated."""

    least: int = 0
    most: int = 10_000

    def holds(self, value: Any) -> bool:
        return self.least <= len(value) <= self.most and len(set(value)) == len(value)

    def __str__(self) -> str:
        return f"of {self.least or 'no'} or more values without a repetition, at most {self.most:,}"


@dataclasses.dataclass(frozen=True)
class Ordered(Rule):
    """Pairs (low, high) with low <= high."""

    def holds(self, value: Any) -> bool:
        return len(value) == 2 and value[0] <= value[1]

    def __str__(self) -> str:
        return "(low, high) with low <= high"


Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX ignores higher bits
Share = Annotated[float, Range(0, 1)]
Dropout = Annotated[float, Range(0, 1, below=True)]
Interval = Annotated[int, Range(0, 10**9)]  # in steps; 0 is none
_KINDS = {int: "an integer", float: "a number", str: "a text", bool: "True or False", tuple: "a tuple"}
_CORRECT = "correct the value"


def from_mapping(cls: type, values: Mapping[str, Any], where: str = "config") -> Any:
    """Returns a dataclass built from nested mappings; every key, type and range is checked.

    Raises:
      UserError: an unknown or missing key, or a value of another type or range, by its dotted name.
    """
    _require(isinstance(values, Mapping), where, "a mapping", values)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(map(str, set(values) - set(fields))):
        raise UserError(
            "unknown config key",
            where=f"{where}.{unknown[0]}",
            expected=f"one of {', '.join(fields)}",
            found=unknown[0],
            fix=nearest(unknown[0], fields, otherwise="correct the name"),
        )
    built = {}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        required &= field.default_factory is dataclasses.MISSING
        if name in values:
            built[name] = checked(hints(typing.cast(Hashable, cls))[name], values[name], f"{where}.{name}")
        elif required:
            raise UserError("missing config key", where=f"{where}.{name}", fix="set it in the config file")
    try:
        return cls(**built)
    except UserError as error:  # of several fields together: it names the class, not the place
        if where.split(".")[-1].split()[-1] in str(error):
            raise
        raise UserError(f"{where}: {error}") from error


def check_fields(instance: Any, where: str) -> None:
    """Checks every field of a new dataclass, which its `__post_init__` passes; lists become tuples.

    Raises:
      UserError: as `from_mapping`.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        hint = hints(typing.cast(Hashable, type(instance)))[field.name]
        own = checked(hint, value, f"{where}.{field.name}")
        if own is not value:
            object.__setattr__(instance, field.name, own)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Checks keyword arguments against the annotations of a function's parameters.

    Raises:
      UserError: as `from_mapping`.
    """
    annotated = hints(function)
    for name in arguments.keys() & annotated.keys() & inspect.signature(function).parameters.keys():
        checked(annotated[name], arguments[name], f"{where}.{name}")


def checked(hint: Any, value: Any, where: str) -> Any:
    """Returns a value as its type hint has it: tuples for lists, floats for integers.

    Raises:
      UserError: as `from_mapping`.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _ruled(arguments[0], arguments[1:], value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else from_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        one_of = f"one of {', '.join(map(repr, arguments))}"
        _require(any(value is known or _same(value, known) for known in arguments), where, one_of, value)
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        others = [kind for kind in arguments if kind is not type(None)]
        if (value is None and len(others) < len(arguments)) or len(others) > 1:
            return value
        return checked(others[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _require(abs(value) < 1e300, where, _KINDS[float], value)
        return float(value)
    if isinstance(hint, type):
        exact = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        _require(exact, where, _KINDS.get(hint, hint.__name__), value)
    return value


@functools.cache
def hints(of: Hashable) -> Mapping[str, Any]:
    """Returns the type hints of a class or function, with their rules."""
    return typing.get_type_hints(typing.cast(Any, of), include_extras=True)


def described(hint: Any) -> str:
    """Returns the range of a type hint as text, or "" if it has none.

    >>> described(Annotated[int, Range(0, 10)])
    'an integer from 0 to 10'
    >>> described(tuple[Annotated[float, Range(0, 1, above=True)], ...])
    'each a number above 0 and at most 1'
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        own = " ".join([_KINDS.get(typing.get_origin(arguments[0]) or arguments[0], "a value")])
        own += "".join(f" {rule}" for rule in arguments[1:])
        return "; ".join(filter(None, (own, described(arguments[0]))))
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        own = next(filter(None, map(described, arguments)), "")
        return f"{own}, or None" if own and type(None) in arguments else own
    if origin is not None:
        inner = {text: None for text in map(described, arguments) if text}
        return "".join(f"each {text}" for text in list(inner)[-1:])
    return ""


class Documented(NamedTuple):
    """A field of a configuration, as help and API pages show it."""

    name: str  # dotted
    values: str  # its type and range
    default: str  # as Python; empty: it must be set
    meaning: str  # the comment of the field


def documented(cls: type, prefix: str = "") -> Iterator[Documented]:
    """Yields every field of a dataclass, and those of the dataclasses it holds after `prefix`."""
    comments = _comments(cls)
    for field in dataclasses.fields(cls):
        hint, name = hints(typing.cast(Hashable, cls))[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            yield from documented(typing.cast(type, hint), f"{name}.")
            continue
        missing = field.default is dataclasses.MISSING
        default = "" if missing else repr(field.default)
        if missing and field.default_factory is not dataclasses.MISSING:
            default = repr(field.default_factory())
        values = described(hint) or _KINDS.get(hint, "")
        yield Documented(name, values or _plain_kind(hint), default, comments.get(field.name, ""))


def _plain_kind(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return _KINDS.get(origin or hint, "a value")


def _comments(cls: type) -> dict[str, str]:
    """Returns the comments of a class' fields: those on the lines above and at the end of the line."""
    found: dict[str, str] = {}
    for kind in reversed(cls.__mro__[:-1]):
        above: list[str] = []
        try:
            source = textwrap.dedent(inspect.getsource(kind))
        except OSError:  # of a class without a file
            continue
        for line in source.splitlines():
            if line.startswith("    # "):
                above.append(line[6:])
                continue
            if (field := re.match(r"    (\w+): ", line)) and field[1] in kind.__annotations__:
                beside = line.partition("  # ")[2].partition("type: ignore")[0]
                own = " ".join([*above, beside]).strip()
                found[field[1]] = own or found.get(field[1], "")
            above = []
    return found


def _ruled(kind: Any, rules: tuple[Rule, ...], value: Any, where: str) -> Any:
    of_kind = _KINDS.get(typing.get_origin(kind) or kind, "a value")
    value = checked(kind, value, where)
    for rule in rules:
        _require(rule.holds(value), where, f"{of_kind} {rule}", value)
    return value


def _same(value: Any, known: Any) -> bool:
    return type(value) is type(known) and bool(value == known)


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    words = re.findall(r"[^,+\s]+", value) if isinstance(value, str) else [value]
    fix = f'write "{tuple(words)!r}"' if isinstance(value, str | int | float) else _CORRECT
    _require(isinstance(value, list | tuple), where, _KINDS[tuple], value, fix=fix)
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(value)
    _require(len(value) == len(kinds), where, f"a tuple of {len(kinds)} values", value)
    items = tuple(
        checked(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )
    return value if isinstance(value, tuple) and items == value else items


def _mapping(kinds: tuple[Any, ...], value: Any, where: str) -> Mapping[str, Any]:
    _require(isinstance(value, Mapping), where, "a mapping", value)
    if kinds[1] is Any:
        return {key: _plain(item) for key, item in value.items()}
    return {checked(kinds[0], k, where): checked(kinds[1], item, f"{where}.{k}") for k, item in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _require(holds: bool, where: str, expected: str, found: Any, *, fix: str = _CORRECT) -> None:
    if not holds:
        text = repr(found)
        text = text if len(text) <= 80 else text[:77] + "..."
        raise UserError("bad config value", where=where, expected=expected, found=text, fix=fix)
