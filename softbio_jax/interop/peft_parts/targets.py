"""Which modules a PEFT configuration adapts, trains whole, or leaves alone, matched as PEFT matches them."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from softbio_jax.errors import UserError

# What torch's wrappers add to a module's name, also where a dot is escaped in a pattern.
_WRAPPER = re.compile(r"(?<![A-Za-z0-9_])(?:_orig_mod|module|_fsdp_wrapped_module)\\?\.")
# torch's attention: PEFT adapts its output projection with it, under the attention's name.
WRAPPED = ".base_layer.out_proj"
_FIELDS = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """The fields of a configuration that choose modules; a text is a regex of the whole name.

    wanted None chooses every module. blocks are the numbers after one of the names `above`.
    """

    wanted: str | tuple[str, ...] | None = None
    excluded: str | tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    blocks: tuple[int, ...] | None = None
    above: tuple[str, ...] = ()

    def adapts(self, module: str) -> bool:
        """Returns whether PEFT loads an adapter of a module, of which it ignores all others."""
        module = module.removesuffix(WRAPPED)
        if (self.excluded and _matches(self.excluded, module)) or self.trains(module):
            return False
        if self.wanted is None or self.wanted == "all-linear":
            return True
        return _matches(self.wanted, module) and (isinstance(self.wanted, str) or self._in_blocks(module))

    def trains(self, module: str) -> bool:
        """Returns whether a module is among those that are trained whole (modules_to_save)."""
        return any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.trained)

    def saves(self, module: str) -> bool:
        """Returns whether PEFT trains and saves a module whole: it compares the ends of names, as texts."""
        return any(re.match(rf".*{re.escape(name)}($|\..*)", module) for name in self.trained)

    def _in_blocks(self, module: str) -> bool:
        if self.blocks is None:
            return True
        patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in self.above] or [r".*?\.[^.]*\.(\d+)\."]
        match = next((found for p in patterns if (found := re.match(p, module))), None)
        return match is not None and int(match[1]) in self.blocks


def _matches(wanted: str | tuple[str, ...], module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def targets_of(values: Mapping[str, Any], where: str) -> Targets:
    """Reads the fields of adapter_config.json.

    Raises:
      UserError: a field of another type, or a pattern that is no regular expression.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    for name in _FIELDS:
        value = values.get(name) or ()
        texts = [value] if isinstance(value, str) else value
        try:
            texts = [unwrapped(text) for text in texts]
            found[name] = texts[0] if isinstance(value, str) else tuple(texts)
            for text in texts:
                re.compile(text)
        except (TypeError, re.error) as error:
            raise _bad(where, name, "names, or a regular expression", value) from error
    blocks = values.get("layers_to_transform")
    blocks = [blocks] if isinstance(blocks, int) else blocks or None
    if blocks is not None and not (isinstance(blocks, list) and all(type(i) is int for i in blocks)):
        raise _bad(where, "layers_to_transform", "numbers of blocks", blocks)
    several = {name: (text,) if isinstance(text, str) else text for name, text in found.items()}
    return Targets(
        wanted=found["target_modules"] or None,
        excluded=found["exclude_modules"],
        trained=several["modules_to_save"],
        blocks=None if blocks is None else tuple(blocks),
        above=several["layers_pattern"],
    )


def _bad(where: str, name: str, expected: str, value: object) -> UserError:
    fix = "give the folder PEFT saved"
    return UserError(
        "PEFT field that cannot be read",
        where=f"{where} field {name}",
        expected=expected,
        found=repr(value),
        fix=fix,
    )


def unwrapped(pattern: str) -> str:
    """Returns a name or pattern without what torch's wrappers add, as the names in a file are read.

    >>> unwrapped(r"_orig_mod.blocks\\.0\\.attn")
    'blocks\\\\.0\\\\.attn'
    """
    return _WRAPPER.sub("", pattern)


def check_targets(targets: Targets, modules: Iterable[str], *, where: str) -> None:
    """Checks that PEFT would load the adapters of all these modules.

    Raises:
      UserError: a module that the configuration does not choose.
    """
    ignored = [module for module in modules if not targets.adapts(module)]
    if ignored:
        raise UserError(
            "adapters that the configuration does not choose, so that PEFT ignores them",
            where=where,
            expected="modules that target_modules and layers_to_transform choose and no other field excludes",
            found=", ".join(ignored[:3]) + (f" and {len(ignored) - 3} others" if ignored[3:] else ""),
            fix="correct these fields of adapter_config.json, or remove the tensors",
        )
