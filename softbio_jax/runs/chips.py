"""Published peak rates of accelerator chips."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One JAX device, as its maker specifies it.

    Args:
      name: the usual name.
      memory: HBM in bytes.
      flops: peak bfloat16 operations per second.
      bandwidth: peak HBM bytes per second.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float


_GIB = 2**30
# cloud.google.com/tpu/docs/system-architecture-tpu-vm, nvidia.com data sheets (dense, SXM), read in
# 2025. A v4 or v5p chip is one JAX device; a 7x chip is two, so half of its rates are listed.
CHIPS = {
    "v4": Chip(name="TPU v4", memory=32 * _GIB, flops=275e12, bandwidth=1.228e12),
    "v5e": Chip(name="TPU v5e", memory=16 * _GIB, flops=197e12, bandwidth=0.819e12),
    "v5p": Chip(name="TPU v5p", memory=95 * _GIB, flops=459e12, bandwidth=2.765e12),
    "v6e": Chip(name="TPU v6e", memory=32 * _GIB, flops=918e12, bandwidth=1.64e12),
    "7x": Chip(name="TPU 7x core", memory=96 * _GIB, flops=1153e12, bandwidth=3.69e12),
    "a100": Chip(name="NVIDIA A100 80GB", memory=80 * _GIB, flops=312e12, bandwidth=2.039e12),
    "h100": Chip(name="NVIDIA H100", memory=80 * _GIB, flops=989e12, bandwidth=3.35e12),
    "h200": Chip(name="NVIDIA H200", memory=141 * _GIB, flops=989e12, bandwidth=4.8e12),
}
# JAX device_kind in lower case -> chip.
_KINDS = {
    "tpu v4": "v4",
    "tpu v5 lite": "v5e",
    "tpu v5e": "v5e",
    "tpu v5": "v5p",
    "tpu v5p": "v5p",
    "tpu v6 lite": "v6e",
    "tpu v6e": "v6e",
    "tpu7x": "7x",
    "tpu 7x": "7x",
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX `device_kind`, None for an unknown one."""
    kind = device_kind.lower()
    if kind in _KINDS:
        return CHIPS[_KINDS[kind]]
    return next((CHIPS[name] for name in ("h200", "h100", "a100") if name in kind), None)
