"""Names of arrays without what wrappers of a model and training programs put before them."""

from collections.abc import Mapping, Sequence

import numpy as np

from softbio_jax.errors import UserError

# Parts of a name that torch's wrappers of a model add: compiled, distributed, sharded, checkpointed.
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_COUNTER = "n_averaged"  # beside the module of torch's AveragedModel
# The levels under which training programs save a model.
LEVELS = (
    *("state_dict", "weights", "model", "model_state_dict", "model_state", "module", "net", "network"),
    *("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_ema_state_dict"),
    *("student", "teacher", "target", "backbone", "params", "params_ema", "shadow", "averaged_model"),
)


def plain_names(arrays: Mapping[str, np.ndarray], *, where: str, level: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of the file `where` without what saving a wrapped model adds to their names.

    Parts such as `module` and `_orig_mod` are removed, and a level among `LEVELS` that all names are below.

    Args:
      level: the level to read, such as `ema` or `teacher.backbone`; what is not below it is left out.

    Raises:
      UserError: two names become one, no such level, or several and none given.
    """
    originals: dict[str, str] = {}
    for key in arrays:
        *parts, last = key.split(".")
        name = ".".join([*(part for part in parts if part not in WRAPPERS), last])
        if name in originals:
            raise UserError(
                "two names of one array",
                where=where,
                expected="each array once",
                found=f"{originals[name]} and {key}",
                fix="save the model with its wrapper or without, not both",
            )
        originals[name] = key
    if arrays.get(originals.get(_COUNTER, ""), np.zeros(1)).ndim == 0:
        del originals[_COUNTER]
    level = ".".join(part for part in level.split(".") if part not in WRAPPERS)
    while tops := {name.partition(".")[0] if "." in name else "" for name in originals}:
        if level and any(name.startswith(f"{level}.") for name in originals):
            top, level = level, ""
        elif level or tops <= set(LEVELS):
            known = sorted(name for name in tops if name)
            one = len(known) == 1 and known[0] in LEVELS  # the chosen level is below it
            top = known[0] if one else one_level(known, where=where, level=level)
        else:
            break
        originals = {
            name.removeprefix(f"{top}."): key for name, key in originals.items() if name.startswith(f"{top}.")
        }
    return {name: arrays[key] for name, key in originals.items()}


def one_level(levels: Sequence[str], *, where: str, level: str = "") -> str:
    """Returns the chosen level of the file `where`, or its only one.

    Raises:
      UserError: it has several and none is chosen, or it does not have the chosen one.
    """
    if level in levels or (len(levels) == 1 and not level):
        return level or levels[0]
    raise UserError(
        "several sets of weights in the file" if not level else "no such level in the file",
        where=where,
        expected=level or "one, or the name of one",
        found=", ".join(levels[:6]) or "none",
        fix=f"give {' or '.join(f'{where}:{name}' for name in levels[:4]) or where}",
    )
