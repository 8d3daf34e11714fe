"""Operations of a traced function, loops multiplied out."""

import math
from typing import Any

from jax.extend.core import jaxprs_in_params


def matmul_flops(jaxpr: Any) -> int:
    """Counts two operations a multiply-add of every matrix product and convolution in a jaxpr.

    A scan's body counts as often as it runs, which XLA's own cost analysis does not do; what remat
    computes again counts again. Where platforms differ, the default's way counts; of the branches
    of a condition the dearest.

    Args:
      jaxpr: a jaxpr, closed or open.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return (
            2
            * math.prod(equation.outvars[0].aval.shape)
            * math.prod(shape[axis] for axis in contracted)
        )
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        groups = equation.params["batch_group_count"]
        return (
            2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // (features * groups)
        )
    if name == "cond":
        branches = [matmul_flops(branch) for branch in equation.params["branches"]]
        # `platform_dependent` puts its default last.
        return branches[-1] if equation.params.get("branches_platforms") else max(branches)
    times = equation.params.get("length", 1) if name == "scan" else 1
    return times * sum(matmul_flops(inner) for inner in jaxprs_in_params(equation.params))
