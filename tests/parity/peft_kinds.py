"""The kinds of PEFT adapters that docs/parity.md lists, made with the installed PEFT."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import peft
import safetensors.torch
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from softbio_jax.interop.peft_parts.folder import CONFIG, WEIGHTS
from tests.parity.torch_towers import timm_tower

BLOCKS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
POOL = r"attn_pool\.(q|kv|proj|mlp\.fc[12])"
OFFICIAL = r".*resblocks\.\d+\.mlp\.c_(fc|proj)"
FILE, MODEL = "file", "model"
Folder = pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """How an adapter is made, and which of its results is expected.

    config: fields of LoraConfig, or a whole configuration. change: what happens to the model before
    it is saved; save: saves it; edit: what happens to the folder afterwards. wanted: the weights
    that PEFT merges after loading the FILE, or those of the MODEL that was saved; None: refused.
    """

    group: str
    base: Callable[[], nn.Module] = timm_tower
    config: Mapping[str, Any] | peft.PeftConfig = dataclasses.field(default_factory=dict)
    change: Callable[[peft.PeftModel], None] = lambda model: None
    save: Callable[[peft.PeftModel, Folder], None] = lambda model, folder: model.save_pretrained(folder)
    edit: Callable[[Folder], None] = lambda folder: None
    wanted: str | None = FILE
    tower: str | None = None


def made(kind: Kind, folder: Folder) -> peft.PeftModel:
    """Saves an adapter of a kind with PEFT, every trained tensor away from its start."""
    torch.manual_seed(0)
    config = kind.config
    if not isinstance(config, peft.PeftConfig):
        config = peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "target_modules": BLOCKS} | dict(config)))
    model = peft.get_peft_model(kind.base(), config).eval()
    stir(model)
    kind.change(model)
    kind.save(model, folder)
    kind.edit(folder)
    return model


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Moves what is trained away from its start."""
    for name, value in model.named_parameters():
        if "magnitude" in name:
            value.mul_(1 + 0.1 * torch.randn_like(value))
        elif value.requires_grad or "lora_A" in name:
            value.add_(0.1 * torch.randn_like(value))


class Inside(nn.Module):
    """A model that holds an encoder under a name."""

    def __init__(self, name: str, model: nn.Module):
        super().__init__()
        self.add_module(name, model)


class Classifier(Inside):
    """A model with a head of its own."""

    def __init__(self):
        super().__init__("backbone", timm_tower())
        self.classifier = nn.Linear(24, 7)


def inside(*names: str, base: Callable[[], nn.Module] = timm_tower) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = base()
        for name in reversed(names):
            model = Inside(name, model)
        return model

    return make


def compiled() -> nn.Module:
    return torch.compile(timm_tower())


def settings(**fields: Any) -> Callable[[Folder], None]:
    """Returns an edit that sets fields of adapter_config.json."""

    def edit(folder: Folder) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Folder], None]:
    """Returns an edit of the tensors in the file."""

    def edit(folder: Folder) -> None:
        arrays = safetensors.torch.load_file(folder / WEIGHTS)
        arrays = {key: value.contiguous() for key, value in change(arrays).items()}
        safetensors.torch.save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def renamed(change: Callable[[str], str]) -> Callable[[Folder], None]:
    return weights(lambda arrays: {change(key): value for key, value in arrays.items()})


def typed(dtype: torch.dtype) -> Callable[[Folder], None]:
    return weights(lambda arrays: {key: value.to(dtype) for key, value in arrays.items()})


def without(part: str) -> Callable[[Folder], None]:
    return weights(lambda arrays: {key: value for key, value in arrays.items() if part not in key})


def as_bin(folder: Folder) -> None:
    torch.save(safetensors.torch.load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def sharded(folder: Folder, *, index: bool = True) -> None:
    """Splits the file in two, with the index that names them or without."""
    arrays = sorted(safetensors.torch.load_file(folder / WEIGHTS).items())
    places = {}
    for i, part in enumerate((arrays[::2], arrays[1::2])):
        name = f"adapter_model-0000{i + 1}-of-00002.safetensors"
        safetensors.torch.save_file(dict(part), folder / name, metadata={"format": "pt"})
        places |= {key: name for key, _ in part}
    (folder / WEIGHTS).unlink()
    if index:
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))


def cut(folder: Folder) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def nan(folder: Folder) -> None:
    weights(lambda arrays: {key: value * float("nan") for key, value in arrays.items()})(folder)


def twice(folder: Folder) -> None:
    """Every tensor also without PEFT's prefix, with other values."""
    weights(lambda arrays: arrays | {k.removeprefix("base_model.model."): v + 1 for k, v in arrays.items()})(
        folder
    )


def foreign(folder: Folder) -> None:
    """Adds adapters of a layer that the configuration does not choose."""
    more = {f"base_model.model.attn_pool.proj.lora_{x}.weight": torch.ones(s) for x, s in SIZES}
    weights(lambda arrays: arrays | more)(folder)


SIZES = (("A", (4, 32)), ("B", (32, 4)))


def weighted(how: str) -> Callable[[peft.PeftModel], None]:
    """Returns a change that joins two adapters into one."""

    def change(model: peft.PeftModel) -> None:
        model.add_adapter("other", peft.LoraConfig(r=4, lora_alpha=16, target_modules=BLOCKS))
        model.set_adapter("other")
        stir(model)
        extra = {"svd_rank": 6} if how == "svd" else {}
        model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "joined", combination_type=how, **extra)
        model.set_adapter("joined")

    return change


@torch.no_grad()
def keep_head(model: peft.PeftModel) -> None:
    """Leaves the bias of timm's head, which the projection does not have, at 0."""
    for name, value in model.named_parameters():
        if "head" in name and name.endswith("bias"):
            value.zero_()


def only(name: str) -> Callable[[peft.PeftModel, Folder], None]:
    return lambda model, folder: model.save_pretrained(folder, selected_adapters=[name])


def second(model: peft.PeftModel) -> None:
    """Adds an adapter that is not the active one."""
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["qkv"]))


def only_subfolders(model: peft.PeftModel, folder: Folder) -> None:
    model.save_pretrained(folder, selected_adapters=["other"])
    shutil.copytree(folder / "other", folder / "another")


def converted(model: peft.PeftModel, folder: Folder) -> None:
    """Saves an adapter that began by changing the base weights as one of the original weights."""
    began = folder.with_name("began")
    torch.manual_seed(0)  # as in `made`
    start = peft.get_peft_model(timm_tower(), dataclasses.replace(model.peft_config["default"]))
    start.save_pretrained(began)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=began)


def optimised(model: peft.PeftModel) -> None:
    """Takes a step of LoRA+, which trains B faster than A."""
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16)
    model(torch.ones(1, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    model.zero_grad()
