"""Whether every adapter rule found a layer."""

import difflib
import re
from collections.abc import Sequence

from softbio_jax.adapters.config import AdapterRules, Rule
from softbio_jax.errors import UserError

_DENSE = re.compile(r"(.+/(?:attn|mlp)/[^/]+)/kernel")


def check_targets(rules: AdapterRules, paths: Sequence[str]) -> None:
    """Raises unless every rule is the first to match at least one layer.

    Rules on the pooling of a model that has none are passed over.

    Args:
      rules: the rules the model was built with.
      paths: the "/"-joined paths of all its parameters.

    Raises:
      UserError: a rule that matches nothing, with the nearest layers.
    """
    layers = [match[1] for path in paths if (match := _DENSE.fullmatch(path))]
    _check(rules.rules, layers)
    if rules.per_task is not None:
        _check(rules.per_task.rules, layers)


def _check(rules: Sequence[Rule], layers: Sequence[str]) -> None:
    pooled = any(layer.startswith("pool/") for layer in layers)
    free = list(layers)
    for pattern, _ in rules:
        matched = [layer for layer in free if re.fullmatch(pattern, layer)]
        free = [layer for layer in free if layer not in matched]
        if not matched and (pooled or not pattern.startswith("pool/")):
            near = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.0)
            raise UserError("adapter target matches no layer", where=repr(pattern),
                            expected="an anchored regex over layer paths, none taken before",
                            found=f"no layer; nearest are {', '.join(near)}",
                            fix="correct the target")  # fmt: skip
