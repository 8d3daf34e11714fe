"""What an adaptation method is: what it injects, what it trains, in which groups."""

import dataclasses
from collections.abc import Sequence

from softbio_jax.adapters.config import AdapterRules
from softbio_jax.adapters.targets import check_targets
from softbio_jax.params.paths import label

FROZEN = "frozen"  # the group that is not trained
# Every method trains the heads, and the balancer's parameters where it has any.
HEADS = (("heads/.*", "heads"),)
_BALANCE = ("balance/.*", "log_sigma")
# The groups of all methods that are here: a config may have a rate for each and not need it.
GROUPS = ("heads", "pooling", "blocks", "adapter_a", "adapter_b", "magnitude", "log_sigma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a tower is adapted.

    groups are (anchored regex, group) pairs over leaf paths, the first match wins and every leaf
    must match; the group `FROZEN` is not trained. tail is how many last blocks are kept apart
    from the scanned trunk, so that nothing below them needs a backward pass.
    """

    name: str
    groups: tuple[tuple[str, str], ...]
    rules: AdapterRules = AdapterRules()
    tail: int = 0

    def label(self, paths: Sequence[str]) -> dict[str, str]:
        """Returns the group of each path.

        Rules on a part that the model does not have (a pooling, a projection) are left out.

        Raises:
          UserError: a path in no group, an empty group, or an adapter rule that matches nothing.
        """
        check_targets(self.rules, paths)
        parts = {path.split("/")[0] for path in paths}
        absent = {"pool", "proj", "balance"} - parts
        rules = (_BALANCE, *self.groups)
        return label(paths, [rule for rule in rules if rule[0].split("/")[0] not in absent])
