"""What a configuration's names have to fit, beyond what their types say."""

import jax

from softbio_jax.data import samplers
from softbio_jax.errors import UserError, nearest
from softbio_jax.models.attention import on_this_machine
from softbio_jax.train.config import RunConfig


def check(config: RunConfig) -> None:
    """Checks what needs neither data nor weights, so that a dry run tells of it too.

    Raises:
      UserError: a sampler or a weighted task that does not exist, or attention that this machine
        cannot compute.
    """
    if "name" not in config.data.sampler:
        raise UserError("missing config key", where="config.data.sampler.name",
                        fix="set it in the config file")  # fmt: skip
    samplers.make(**config.data.sampler)
    for task in sorted(set(config.balancing.weights) - set(config.tasks)):
        raise UserError("weight of a task that the run does not have",
                        where=f"balancing.weights.{task}",
                        expected=f"one of {', '.join(config.tasks)}", found=task,
                        fix=nearest(task, config.tasks, otherwise="leave it out"))  # fmt: skip
    if on_this_machine(config.compute) != config.compute:
        raise UserError("cuDNN's attention without a GPU", where="compute.attention",
                        expected="xla or auto", found=f"cudnn on a {jax.default_backend()}",
                        fix="set it to auto")  # fmt: skip
