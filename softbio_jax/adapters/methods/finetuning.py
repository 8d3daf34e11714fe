"""Fine-tuning: the tower's own weights, all of them or the last blocks."""

from softbio_jax.adapters.method import FROZEN, HEADS, Method
from softbio_jax.errors import UserError


def full() -> Method:
    """Everything is trained but the projection, which the pooled feature does not pass."""
    return Method(
        name="full",
        groups=(*HEADS, ("proj", FROZEN), ("pool/.*", "pooling"), ("encoder/.*", "blocks")),
    )


def ft(blocks: int) -> Method:
    """FT_k: the last k blocks, the pooling and the heads."""
    if blocks < 1:
        raise UserError("no block to fine-tune", where="method.blocks", expected="at least 1",
                        found=str(blocks), fix="use method=ap for the pooling alone")  # fmt: skip
    return Method(
        name=f"ft{blocks}",
        groups=(
            *HEADS, ("pool/.*", "pooling"), ("encoder/tail/.*", "blocks"), (".*", FROZEN),
        ),
        tail=blocks,
    )  # fmt: skip
