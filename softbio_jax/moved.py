"""The module names of 0.1, which still import what took their place and say so once.

Code written for 0.1 runs until it is updated: `from softbio_jax.train import build` gives
`softbio_jax.runs.build` with a DeprecationWarning that names it. Names that changed are found under
the old one too.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

# module of 0.2 -> the modules of 0.1 that went into it
_MOVED = {
    "adapters.config": "adapters.targets",
    "adapters.math": "adapters.formula",
    "adapters.dense": "adapters.reset",
    "adapters.methods": "adapters.method",
    "checkpoints.leaves": "checkpoints.digest",
    "data.audit.expected": "data.audit.order",
    "data.audit.thumbnails": "data.audit.scan",
    "data.builders.age.adience": "data.builders.adience",
    "data.builders.age.fairface": "data.builders.fairface",
    "data.builders.age.imdb_clean": "data.builders.imdb_clean",
    "data.builders.age.lagenda": "data.builders.lagenda",
    "data.builders.age.utkface": "data.builders.utkface",
    "data.builders.age.vggface2": "data.builders.vggface2",
    "data.builders.emotion.affectnet": "data.builders.affectnet",
    "data.builders.emotion.fer2013": "data.builders.fer2013",
    "data.builders.emotion.rafdb": "data.builders.rafdb",
    "data.builders.words": "data.builders.numbering",
    "data.drawing.face": "data.drawing.factors",
    "data.drawing.parts": "data.drawing.hair",
    "data.drawing.synthetic": "data.builders.synthetic data.synthetic",
    "data.faces": "data.boxes",
    "data.loading": "data.read_ahead",
    "data.pipeline": "data.slices",
    "data.prepare.account": "data.account data.journal",
    "data.prepare.base": "data.builders.base",
    "data.prepare.beam": "data.beam",
    "data.prepare.ingest": "data.ingest",
    "data.prepare.prepare": "data.records",
    "data.prepare.rows": "data.rows",
    "data.prepare.storage": "data.storage",
    "data.prepare.survey": "data.class_picture data.survey",
    "data.prepare.tables": "data.builders.tables",
    "data.index": "data.audit.verdict",
    "data.sampling": "data.samplers data.weighting",
    "data.sources": "data.split",
    "evaluation.evaluate": "evaluation.tables train.evaluate",
    "evaluation.metrics.calibration": "evaluation.calibration",
    "evaluation.metrics.classification": "evaluation.age_error",
    "evaluation.metrics.comparison": "evaluation.comparison",
    "evaluation.metrics.fairness": "evaluation.fairness",
    "evaluation.metrics.intervals": "evaluation.averages evaluation.intervals",
    "evaluation.metrics.per_task": "evaluation.figures",
    "evaluation.report.gallery": "evaluation.gallery",
    "evaluation.speed": "train.speed",
    "evaluation.zero_shot.evaluate": "train.zero_shot",
    "evaluation.zero_shot.prompts": "evaluation.prompts",
    "evaluation.zero_shot.tokenizer": "evaluation.tokenizer",
    "files": "checkpoints.files inference.new_folder writing",
    "inference.bulk.inputs": "inference.inputs",
    "inference.bulk.stream": "inference.stream",
    "inference.bulk.table": "inference.rows inference.table",
    "inference.bulk.videos": "inference.video",
    "inference.bundle": "inference.bundle_files",
    "inference.export.comparison": "inference.export_comparison",
    "inference.export.litert": "inference.litert",
    "inference.export.onnx": "inference.onnx_export inference.onnx_graph",
    "inference.export.onnx_graph": "inference.onnx_ops",
    "inference.export.program": "inference.fusion inference.program inference.tracing",
    "inference.export.stablehlo": "inference.exported inference.stablehlo",
    "inference.hub": "inference.model_card",
    "inference.images": "inference.pictures",
    "inference.predictor": "inference.api inference.source",
    "interop.adapter_files": "interop.adaptation",
    "interop.formats": "interop.normalization",
    "interop.goldens": "interop.named_weights",
    "interop.keymap": "interop.strict interop.transforms",
    "interop.peft": "interop.peft_config",
    "interop.peft_layers": "interop.peft_modules",
    "interop.reading.locate": "interop.hub",
    "interop.timm": "interop.open_clip",
    "losses.balancing": "losses.balancer losses.balancers",
    "losses.masked": "losses.per_task",
    "models.elementwise": "models.norm",
    "models.flops": "models.adapter_flops train.traced",
    "models.multitask": "models.heads",
    "models.positions": "models.rope",
    "models.text": "models.clip",
    "models.vision": "models.pooling",
    "planning.fit": "planning.epoch",
    "planning.hlo": "planning.traffic",
    "planning.search": "planning.choose",
    "runs.build": "train.build",
    "runs.chips": "train.chips",
    "runs.config": "train.checks train.config",
    "runs.data": "train.data train.sanity",
    "runs.directory": "train.differing train.record",
    "runs.optimizer": "train.optimizer",
    "runs.restore": "train.restore",
    "runs.parallel": "parallel",
    "runs.session": "train.predict train.session",
    "runs.state": "train.state",
    "runs.step": "train.step",
    "train.loop": "train.training train.validate",
    "train.metrics_log": "train.events train.recorder train.writer",
    "train.probing.cached": "train.cached train.cached_steps",
    "train.probing.features": "train.feature_store train.features",
    "train.probing.sweep": "train.sweep train.sweep_session",
    "train.probing.table": "train.feature_table train.row_batches",
    "train.progress": "train.idle train.profile train.watch",
}
_NEW = {old: new for new, names in _MOVED.items() for old in names.split()}
# (module of 0.2, or that of 0.1 where it alone had the name; name of 0.1) -> where the name is now
_RENAMED = {
    ("data.audit.verdict", "load"): "data.index:load_verdict",
    ("data.audit.verdict", "store"): "data.index:store_verdict",
    ("data.weighting", "balanced"): "data.sampling:balanced_probabilities",
    ("data.weighting", "mixture"): "data.sampling:mixture_probabilities",
    ("runs.build", "Parts"): "runs.build:Run",
    ("runs.build", "config_from"): "runs.config:config_from",
    ("runs.build", "parts"): "runs.build:build",
    ("runs.build", "train_step"): "runs.session:train_step",
    ("inference.bulk.videos", "pace"): "moved:pace",
    ("runs.data", "eval_stream"): "moved:eval_stream",
    ("runs.data", "train_stream"): "moved:train_stream",
    ("train.progress", "Watch"): "train.validation:ValidationHistory",
    ("train.progress", "ValidationHistory"): "train.validation:ValidationHistory",
    ("train.metrics_log", "Recorder"): "train.metrics_log:MetricsLog",
    ("evaluation.metrics.per_task", "task_figures"): "evaluation.metrics.per_task:task_metrics",
    ("evaluation.metrics.per_task", "proper_figures"): "evaluation.metrics.per_task:probability_metrics",
}


def train_stream(run: Any, data: Any) -> Any:
    """Returns `runs.data.train_batches` of a run, by the arguments of 0.1."""
    data_lib = importlib.import_module("softbio_jax.runs.data")
    return data_lib.train_batches(run.config, data, image_size=run.image_size)


def eval_stream(run: Any, dataset: Any) -> Any:
    """Returns `runs.data.eval_batches` of a run, by the arguments of 0.1."""
    data_lib, config = importlib.import_module("softbio_jax.runs.data"), run.config
    size, batch_size = run.image_size, config.train.eval_batch_size
    return data_lib.eval_batches(dataset, image_size=size, batch_size=batch_size, tasks=config.tasks)


def pace(text: str) -> Any:
    """Returns `inference.bulk.videos.Pace.parse` of a text."""
    return importlib.import_module("softbio_jax.inference.bulk.videos").Pace.parse(text)


class _Moved(types.ModuleType):
    """A module of 0.1: reads and sets the attributes of the one in its place."""

    def __init__(self, name: str, new: str):
        super().__init__(name, doc=f"Moved to softbio_jax.{new}.")
        self.__dict__.update(_old=name.partition(".")[2], _new=new, _replaced={})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        renamed = _RENAMED.get((self._old, name)) or _RENAMED.get((self._new, name))
        module, _, found = (renamed or f"{self._new}:{name}").partition(":")
        return getattr(importlib.import_module(f"softbio_jax.{module}"), found)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            new = importlib.import_module(f"softbio_jax.{self._new}")
            self._replaced.setdefault(name, getattr(new, name))
            setattr(new, name, value)

    def __delattr__(self, name: str) -> None:
        """Restores an attribute that was set, which is how mocking libraries undo it."""
        setattr(importlib.import_module(f"softbio_jax.{self._new}"), name, self._replaced.pop(name))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of 0.1, after every other finder."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = name.partition(".")
        return (
            importlib.machinery.ModuleSpec(name, self) if package == "softbio_jax" and old in _NEW else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        new = _NEW[spec.name.partition(".")[2]]
        text = f"{spec.name} has moved to softbio_jax.{new} and will be gone in 0.3"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return _Moved(spec.name, new)

    def exec_module(self, module: types.ModuleType) -> None:
        """Has nothing to run."""


def install() -> None:
    """Makes the module names of 0.1 importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
