"""Multitask soft biometrics in JAX: a Perception Encoder adapted to age, gender and emotion.

Import the module you need, for example `from softbio_jax.models import multitask`; this
package's top level loads nothing, so that command lines start at once.
"""

__version__ = "0.1.0"
