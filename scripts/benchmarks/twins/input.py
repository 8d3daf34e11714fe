"""The other side's input pipeline: torch's DataLoader over files, Pillow, torchvision's
transforms."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from benchmarks.comparison.input_work import InputWork, images_in


class Images(Dataset):
    """The JPEG files of a folder, resized and, in the form "float", normalised by the workers."""

    def __init__(self, work: InputWork, form: str):
        self._paths = sorted(map(str, images_in(work).rglob("*.jpg")))
        steps: list[Any] = []
        if work.source_side != work.image_size:
            steps.append(v2.Resize((work.image_size, work.image_size)))
        steps.append(v2.PILToTensor())
        if form == "float":
            steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        self._transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._paths[index], formats=["JPEG", "PNG"]) as image:
            return self._transform(image.convert("RGB")), 0


def prepare(values: Mapping[str, Any], form: str) -> tuple[Callable[[], float], dict[str, Any]]:
    """Returns a repetition of the pipeline, which returns its seconds.

    Args:
      values: the `InputWork` as JSON.
      form: "float", the usual one, whose workers hand over normalised floats; or "uint8", whose
        workers hand over bytes that are normalised on the device.
    """
    work = InputWork.from_json(values)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = Images(work, form)
    # One epoch outlasts a repetition: no worker is started in the time that counts.
    enough = work.batch * (work.warm + work.batches + 4 * work.workers)
    loader = DataLoader(
        dataset,
        sampler=RandomSampler(dataset, replacement=True, num_samples=enough),
        batch_size=work.batch,
        num_workers=work.workers,
        pin_memory=device.type == "cuda",
    )

    def take(stream: Iterator[list[torch.Tensor]], batches: int) -> None:
        for _ in range(batches):
            images = next(stream)[0].to(device, non_blocking=True)
            if form == "uint8":
                images = images.float().div_(127.5).sub_(1.0)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def repetition() -> float:
        stream = iter(loader)
        take(stream, work.warm)
        start = time.perf_counter()
        take(stream, work.batches)
        return time.perf_counter() - start  # the workers end with the stream

    repetition()
    return repetition, {}
