"""What a balancer of task losses is: the weight of each task's loss in the sum."""

import dataclasses
from collections.abc import Mapping

import jax

from softbio_jax.losses.masked import MaskedMean

Leaves = Mapping[str, jax.Array]  # {name: ()}, one task's
Values = dict[str, jax.Array]  # {task: ()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balancer:
    """total = sum_t w_t L_t + regulariser_t, over the tasks present in the global batch.

    A subclass says which `kind` it is and overrides what it has; its fields are its arguments in
    the config. What is learned is trained beside the tower, in the group log_sigma; what runs
    along is kept with the run's statistics, and no gradient reaches it.
    """

    kind = ""

    def init(self) -> Leaves:
        """Returns what is learned of a task, before the first step."""
        return {}

    def init_running(self) -> Leaves:
        """Returns what runs along with a task's loss, before its first label."""
        return {}

    def update(self, running: Leaves, loss: jax.Array) -> Leaves:
        """Returns a task's running values with one more loss (), which has no gradient."""
        del loss
        return running

    def weigh(
        self,
        losses: Mapping[str, MaskedMean],
        learned: Mapping[str, Leaves],
        running: Mapping[str, Leaves],
    ) -> tuple[Values, Values]:
        """Returns w, and the regularisers of the tasks that have one: {task: ()} each.

        Args:
          losses: the global masked mean of each task; an absent one's weight is not used.
          learned: {task: what `init` began}.
          running: {task: what `update` made of this step's loss}.
        """
        raise NotImplementedError
