"""The other side: timm's Perception Encoder with peft's adapters, trained by plain PyTorch."""

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.comparison.workload import Workload, example_batch
from softbio_jax.models.config import TIMM_NAMES, VISION
from softbio_jax.tasks import MISSING, TASKS

# What this package adapts by default: every projection of the blocks, and of the pooling all but
# its q, k and v.
_TARGETS = r"(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))|attn_pool\.(proj|mlp\.(fc1|fc2)))"
_RATE, _DECAY, _CLIP = 1e-4, 0.01, 1.0


class Twin(nn.Module):
    """The encoder, one head per task, and the log-variances that balance the losses."""

    def __init__(self, tower: nn.Module, width: int, workload: Workload):
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({task: _head(width, task, workload) for task in workload.tasks})
        self.log_var = nn.ParameterDict({t: nn.Parameter(torch.zeros(())) for t in workload.tasks})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps uint8 (B, S, S, 3) to logits {task: (B, C)}."""
        pixels = images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        features = self.tower(pixels)
        if features.ndim == 2:
            features = features.expand(len(self.heads), *features.shape)
        return {
            task: head(feature.float())
            for (task, head), feature in zip(self.heads.items(), features, strict=True)
        }


def tower(workload: Workload) -> nn.Module:
    """Returns timm's encoder of the workload's shape, with random weights, ending at the pooling."""
    import timm

    config = VISION[workload.variant]
    names = {variant: name for name, variant in TIMM_NAMES.items()}
    shape: dict[str, Any] = {}
    if workload.variant not in names:  # the small shapes that only this package knows
        shape = {
            "img_size": config.image_size,
            "patch_size": config.patch_size,
            "embed_dim": config.width,
            "num_heads": config.heads,
            "ref_feat_shape": (config.grid, config.grid),
        }
    return timm.create_model(
        names.get(workload.variant, names["PE-Core-B16-224"]),
        depth=workload.layers or config.layers,
        num_classes=0,
        **shape,
    )


def adapted(workload: Workload) -> Twin:
    """Returns the model with what the method trains, and nothing else, requiring gradients."""
    model, width = tower(workload), VISION[workload.variant].width
    model.requires_grad_(False)
    if workload.method in ("lora", "dora"):
        _add_adapters(model, workload, _TARGETS)
    elif workload.method == "mtlora":
        from benchmarks.twins.mtlora import MTLoRATower, shared_targets

        _add_adapters(model, workload, shared_targets(len(model.blocks)))
        model = MTLoRATower(model, tasks=len(workload.tasks), rank=workload.rank)
    elif workload.method == "ft4":
        # The blocks below record nothing: none of their inputs or weights needs a gradient.
        for part in (*model.blocks[-4:], model.attn_pool):
            part.requires_grad_(True)
    return Twin(model, width, workload)


def loss_of(model: Twin, logits: dict[str, torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
    """Returns the sum over tasks with a label of exp(-s) L + s / 2."""
    total = torch.zeros((), device=batch["image"].device)
    for task, values in logits.items():
        labels = batch[f"labels/{task}"]
        count = (labels != MISSING).sum()
        summed = F.cross_entropy(values, labels, ignore_index=MISSING, reduction="sum")
        s = model.log_var[task].clamp(-4.0, 4.0)
        term = torch.exp(-s) * summed / count.clamp(min=1) + s / 2
        total = total + torch.where(count > 0, term, 0.0)
    return total


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], None], dict[str, Any]]:
    """Builds the workload and runs it once, which compiles it.

    Args:
      values: the `Workload` as JSON.
      form: "eager", "compiled", or "blocks compiled", where one compilation serves all blocks.

    Returns:
      A function that runs one repetition to its end, and the number of trained parameters.
    """
    torch.manual_seed(0)
    workload = Workload.from_json(values)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = adapted(workload).to(device)
    trained = [p for p in model.parameters() if p.requires_grad]
    if workload.dtype == "bfloat16":
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
    batch = {name: torch.from_numpy(value) for name, value in example_batch(workload).items()}
    for name in [name for name in batch if name.startswith("labels/")]:
        batch[name] = batch[name].long()
    repeat = _train if workload.work == "train" else _forward
    repetition = repeat(model, trained, batch, device, workload, form)
    repetition()
    return repetition, {"trainable": sum(p.numel() for p in trained)}


def _train(
    model: Twin, trained: list, host: dict, device: torch.device, workload: Workload, form: str
) -> Callable[[], None]:
    model.train()
    call = _compiled(model, form)
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=_DECAY, fused=True)

    def step() -> torch.Tensor:
        batch = {name: value.to(device, non_blocking=True) for name, value in host.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16"):
            logits = call(batch["image"])
        loss = loss_of(model, logits, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, _CLIP, foreach=True)
        optimizer.step()
        return loss.detach()

    def repetition() -> None:
        for _ in range(workload.steps):
            loss = step()
        loss.item()  # waits for the device

    return repetition


def _forward(
    model: Twin, trained: list, host: dict, device: torch.device, workload: Workload, form: str
) -> Callable[[], None]:
    del trained
    model.eval().requires_grad_(False)
    # Frozen weights may be laid out anew for the matrix products.
    call = _compiled(model, form, options={"freezing": True})

    def repetition() -> None:
        automatic = torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16")
        with torch.inference_mode(), automatic:
            for _ in range(workload.steps):
                logits = call(host["image"].to(device, non_blocking=True))
            {task: value.cpu() for task, value in logits.items()}

    return repetition


def _compiled(model: Twin, form: str, **options: Any) -> Callable[..., Any]:
    if form == "compiled":
        return torch.compile(model, **options)
    if form == "blocks compiled":
        tower = getattr(model.tower, "tower", model.tower)
        for block in tower.blocks:
            block.compile(**options)
    return model


def _head(width: int, task: str, workload: Workload) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(width) if workload.batch_norm else nn.Identity(),
        nn.Dropout(0.5),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, TASKS[task].num_classes),
    )


def _add_adapters(model: nn.Module, workload: Workload, targets: str) -> None:
    """Puts peft's adapters into the encoder, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=workload.rank,
        lora_alpha=workload.rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        use_dora=workload.method == "dora",
    )
    inject_adapter_in_model(config, model)


def describe() -> dict[str, Any]:
    """Returns the device, the threads and the versions of what runs."""
    gpu = torch.cuda.is_available()
    products = [name for name, module in (("MKL", "mkl"), ("oneDNN", "mkldnn")) if _available(module)]
    return {
        "platform": "gpu" if gpu else "cpu",
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "library": f"torch: {' and '.join(products) or 'own products'}, {torch.get_num_threads()} threads",
        "versions": {name: metadata.version(name) for name in ("torch", "timm", "peft")},
    }


def device_bytes() -> int:
    """Returns the most that tensors of this process have used of the device's memory; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _available(backend: str) -> bool:
    return bool(getattr(torch.backends, backend).is_available())
