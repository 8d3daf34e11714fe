"""Agreement between the processes of a run."""

import jax
import numpy as np
import orbax.checkpoint as ocp

_BARRIER_TIMEOUT = 30 * 60_000  # milliseconds: longer than any compilation


def barrier(name: str) -> None:
    """Waits until every process has arrived.

    Uses JAX's coordination service: a collective would give the slowest process only 30 seconds
    when it is the first one.
    """
    ocp.multihost.get_barrier_sync_fn()(key=f"softbio_{name}", timeout_ms=_BARRIER_TIMEOUT)


def any_process(name: str, flag: bool) -> bool:
    """Returns whether the flag is set on any process; every process must call it.

    Args:
      name: of the barrier before the exchange.
      flag: this process' own.
    """
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    barrier(name)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
