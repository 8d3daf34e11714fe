"""Accelerator chips: their published peak rates, and the type that they compute in."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One JAX device, as its maker specifies it.

    Args:
      name: the usual name.
      memory: HBM in bytes.
      flops: peak operations per second in `dtype`.
      bandwidth: peak HBM bytes per second.
      link: bytes per second that it can send to other chips of its slice or board, over all its links in one
        direction; 0: not published.
      clock: of its units, cycles per second, by which the compiler's estimates become seconds; 0: unknown.
      dtype: the 16-bit type that its matrix units multiply; P100 has no such units.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float = 0
    clock: float = 0
    dtype: Literal["bfloat16", "float16"] = "bfloat16"


_GIB = 2**30
# TPUs, A100 80GB, H100 and H200: cloud.google.com/tpu/docs/system-architecture-tpu-vm and nvidia.com data
# sheets (dense, SXM), read in 2025. B200 (as in an HGX board), RTX 4090 and 5090 (sums in float32): published
# tables, compared in November 2026. A100 40GB, L4, T4 and P100 (PCIe): as commonly quoted, not read again.
# A v4 or v5p chip is one JAX device; a 7x chip is two, so half of its rates are listed.
# Links: cloud.google.com/tpu/docs, v5e, v6e and v5p, read in November 2026 (1,600 and 3,200 Gbps; of v5p
# half of the 1,200 GB/s of both directions); v4 and 7x as commonly quoted (2,400 and 9,600 Gbps). GPUs: half
# of what NVLink has in both directions by the data sheets (A100 600, H100 and H200 900, B200 1,800 GB/s);
# others have PCIe, whose rate depends on the board. Clock of v5e: peak / (4 units of 128 x 128 x 2).
CHIPS = {
    "v4": Chip(name="TPU v4", memory=32 * _GIB, flops=275e12, bandwidth=1.228e12, link=300e9),
    "v5e": Chip(name="TPU v5e", memory=16 * _GIB, flops=197e12, bandwidth=0.819e12, link=200e9, clock=1.5e9),
    "v5p": Chip(name="TPU v5p", memory=95 * _GIB, flops=459e12, bandwidth=2.765e12, link=600e9),
    "v6e": Chip(name="TPU v6e", memory=32 * _GIB, flops=918e12, bandwidth=1.64e12, link=400e9),
    "7x": Chip(name="TPU 7x core", memory=96 * _GIB, flops=1153e12, bandwidth=3.69e12, link=600e9),
    "a100": Chip(name="NVIDIA A100 80GB", memory=80 * _GIB, flops=312e12, bandwidth=2.039e12, link=300e9),
    "h100": Chip(name="NVIDIA H100", memory=80 * _GIB, flops=989e12, bandwidth=3.35e12, link=450e9),
    "h200": Chip(name="NVIDIA H200", memory=141 * _GIB, flops=989e12, bandwidth=4.8e12, link=450e9),
    "b200": Chip(name="NVIDIA B200", memory=180 * _GIB, flops=2250e12, bandwidth=7.7e12, link=900e9),
    "a100-40": Chip(name="NVIDIA A100 40GB", memory=40 * _GIB, flops=312e12, bandwidth=1.555e12, link=300e9),
    "l4": Chip(name="NVIDIA L4", memory=24 * _GIB, flops=121e12, bandwidth=0.3e12),
    "rtx4090": Chip(name="NVIDIA RTX 4090", memory=24 * _GIB, flops=165.2e12, bandwidth=1.008e12),
    "rtx5090": Chip(name="NVIDIA RTX 5090", memory=32 * _GIB, flops=209.5e12, bandwidth=1.792e12),
    "t4": Chip(name="NVIDIA T4", memory=16 * _GIB, flops=65e12, bandwidth=0.32e12, dtype="float16"),
    "p100": Chip(name="NVIDIA P100", memory=16 * _GIB, flops=18.7e12, bandwidth=0.732e12, dtype="float16"),
}
# JAX device_kind of a TPU in lower case -> chip.
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


# Words of a GPU's device_kind in lower case -> chip; the first whose words all occur.
_GPUS = {
    "h200": "h200",
    "gh200": "h200",
    "h100": "h100",
    "b200": "b200",
    "gb200": "b200",
    "a100 40gb": "a100-40",
    "a100": "a100",
    "l4": "l4",
    "t4": "t4",
    "p100": "p100",
    "rtx 4090": "rtx4090",
    "rtx 5090": "rtx5090",
}
Dtype = Literal["float32", "bfloat16", "float16"]
_GPU_PLATFORMS = ("gpu", "cuda", "rocm")
_BFLOAT16_FROM = 8.0  # NVIDIA's compute capability: Ampere


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip of a JAX `device_kind`, None for an unknown one."""
    kind = device_kind.lower()
    if kind in _KINDS:
        return CHIPS[_KINDS[kind]]
    words = kind.replace("-", " ").split()  # "NVIDIA H100 80GB HBM3", "Tesla P100-PCIE-16GB"
    if "laptop" in words:  # another chip of the same name
        return None
    return next((CHIPS[name] for known, name in _GPUS.items() if set(known.split()) <= set(words)), None)


def fastest_dtype(devices: Sequence[Any]) -> Dtype:
    """Returns the type in which devices compute an encoder fastest.

    bfloat16 on TPUs and GPUs that multiply it, float16 on NVIDIA GPUs before compute capability 8.0
    (T4, V100, P100), float32 on CPUs and platforms that are not known. Among several kinds of GPU, the
    one without bfloat16 decides.

    Args:
      devices: with JAX's `platform` and `device_kind`, and `compute_capability` where they have it.
    """
    found = {_fastest(device) for device in devices}
    dtypes: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")
    return next(dtype for dtype in dtypes if dtype in found)


def _fastest(device: Any) -> Dtype:
    if device.platform == "tpu":
        return "bfloat16"
    if device.platform not in _GPU_PLATFORMS:
        return "float32"
    try:
        capability = float(getattr(device, "compute_capability", None) or "")
    except ValueError:  # "gfx90a" of AMD, or a device that is only described
        chip = chip_of(device.device_kind)
        return chip.dtype if chip else "bfloat16"
    return "bfloat16" if capability >= _BFLOAT16_FROM else "float16"
