"""How long this package takes to start: its import, then tracing and compiling a train step."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from benchmarks.comparison.workload import Workload
from benchmarks.ours.step import parts
from softbio_jax.models.forward import per_layer
from softbio_jax.runs import build, parallel
from softbio_jax.runs.session import trace_train_step

_IMPORT = """
import time
start = time.perf_counter()
import softbio_jax
print(time.perf_counter() - start)
"""


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Compiles the step of a `StartWork`, from shapes alone; `form` is "jit".

    Returns:
      Nothing to repeat, and compile_seconds (tracing, lowering and compiling, or loading what the
      cache has) and package_seconds (`import softbio_jax`, in an interpreter of its own).
    """
    if form != "jit":
        raise ValueError(f"no form {form!r} on this side")
    if values["cache"]:
        jax.config.update("jax_compilation_cache_dir", values["cache"])
    run = parts(Workload.from_json(values["workload"]))
    mesh = parallel.make_mesh()
    start = time.perf_counter()
    state, frozen = build.abstract_start(run)
    state, frozen = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parallel.replicated(mesh)),
        (state, per_layer(run.model, frozen)),
    )
    trace_train_step(run, mesh, state, frozen).lower().compile()
    seconds = time.perf_counter() - start
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, check=True)
    return lambda: None, {"compile_seconds": seconds, "package_seconds": float(done.stdout)}
