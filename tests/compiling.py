"""How tests compile what is run once."""

import functools

import jax

# In half the time, to slower code: for what is not compared bit for bit with the usual program's.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
