"""Every adaptation method by its name. Importing its function here is all that registers one."""
# ruff: noqa: F401

import inspect
from collections.abc import Callable
from typing import Any

from softbio_jax.adapters.method import FROZEN, Method
from softbio_jax.adapters.methods.low_rank import BLOCK_TARGETS, POOL_TARGETS
from softbio_jax.errors import UserError, nearest

# isort: off
# The methods, from the fewest parameters on: the order in which they are told.
from softbio_jax.adapters.methods.probing import lp, ap
from softbio_jax.adapters.methods.finetuning import ft, full
from softbio_jax.adapters.methods.low_rank import lora, lora_plus, dora
from softbio_jax.adapters.methods.mtlora import mtlora
# isort: on

METHODS: dict[str, Callable[..., Method]] = {
    name: build
    for name, build in list(globals().items())
    if inspect.isfunction(build) and build.__module__.startswith(f"{__name__}.")
}


def method(name: str, **arguments: Any) -> Method:
    """Returns the method `name`, built with its own arguments.

    Raises:
      UserError: no such method, or arguments it does not take.
    """
    if name not in METHODS:
        raise UserError("unknown method", where="method.name",
                        expected=f"one of {', '.join(METHODS)}", found=repr(name),
                        fix=nearest(name, METHODS, otherwise="take one of them"))  # fmt: skip
    build = METHODS[name]
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise UserError("bad method arguments", where=f"method {name}",
                        expected=f"{name}{inspect.signature(build)}".split(" ->")[0],
                        found=str(error), fix="correct config.method") from error  # fmt: skip
    return build(**arguments)
