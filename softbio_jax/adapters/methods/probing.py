"""Probing: the tower as it is, under trained heads."""

from softbio_jax.adapters.method import FROZEN, HEADS, Method


def lp() -> Method:
    """Linear probing: the heads alone."""
    return Method(name="lp", groups=(*HEADS, (".*", FROZEN)))


def ap() -> Method:
    """Attention probing: the pooling and the heads."""
    return Method(name="ap", groups=(*HEADS, ("pool/.*", "pooling"), (".*", FROZEN)))
