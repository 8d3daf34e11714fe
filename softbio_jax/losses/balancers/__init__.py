"""Every balancer by its kind. Importing its class here is all that registers one."""
# ruff: noqa: F401

import inspect

from softbio_jax.losses.balancer import Balancer

# isort: off
from softbio_jax.losses.balancers.uncertainty import Uncertainty, LiebelKoerner
from softbio_jax.losses.balancers.running_mean import RunningMean
from softbio_jax.losses.balancers.fixed import Fixed
# isort: on

BALANCERS: dict[str, type[Balancer]] = {
    found.kind: found
    for found in list(globals().values())
    if inspect.isclass(found) and issubclass(found, Balancer) and found is not Balancer
}
