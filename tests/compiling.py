"""How tests compile what is run once."""

import functools

import jax

# What jax 0.7.2 compiles otherwise than 0.10 is rounded otherwise: bounds near float32's own noise differ.
OLDER_XLA = jax.__version_info__ < (0, 10)
# In half the time, to slower code: for what is not compared bit for bit with the usual program's.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def train_steps() -> list[str]:
    """Returns a list that grows by a name for every train step that XLA compiles, from its cache or not."""
    names: list[str] = []

    def listen(event, seconds, *, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and "train_step" in fun_name:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return names
