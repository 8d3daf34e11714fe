"""Features of a frozen encoder, computed once and kept on disk, for methods that only train heads."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from softbio_jax import files
from softbio_jax.adapters.methods import FROZEN
from softbio_jax.checkpoints import leaves
from softbio_jax.console import QUIET, Console, Meter
from softbio_jax.data import pipeline
from softbio_jax.data.augment import augment, set_number
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.models.forward import encode
from softbio_jax.params import Tree
from softbio_jax.runs import parallel
from softbio_jax.runs.build import Run
from softbio_jax.safety import damage

SHARD_ROWS = 1024


class FeatureStore:
    """The features of N images in one view, as safetensors shards of 1,024 rows.

    A shard has `features` (n, D), float32, float16 or the bits of bfloat16, and `decoded` (n,), False where
    the image could not be decoded. An interrupted pass leaves only complete shards.

    Args:
      root: folder of all stores.
      identity: JSON values that determine the features, and the name of the store's folder.
      rows: N.
    """

    def __init__(self, root: pathlib.Path, identity: Mapping[str, Any], *, rows: int):
        self._text = json.dumps(identity, indent=2, sort_keys=True) + "\n"
        self.folder = root / hashlib.sha256(self._text.encode()).hexdigest()[:16]
        self._rows = rows

    def shards(self) -> Iterator[slice]:
        """Yields the rows of each shard."""
        for start in range(0, self._rows, SHARD_ROWS):
            yield slice(start, min(start + SHARD_ROWS, self._rows))

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns a shard's features (n, D) and decoded (n,), None if it is missing or damaged."""
        path = self._path(rows)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "numpy") as file:
                about = file.metadata()
                features, decoded = file.get_tensor("features"), file.get_tensor("decoded")
            features, written = features.view(np.dtype(about["dtype"])), about["digest"]
            whole = written == _digest(features, decoded) and len(decoded) == rows.stop - rows.start
            return (features, decoded) if whole else None
        except Exception as error:
            if damage.refusal(error):
                raise
            return None

    def write(self, rows: slice, features: np.ndarray, decoded: np.ndarray) -> None:
        """Writes a shard; raises UserError if the disk refuses it."""
        about = {"dtype": features.dtype.name, "digest": _digest(features, decoded)}
        # safetensors does not write numpy's bfloat16, so its bits are stored as integers.
        bits = features.view(np.uint16) if features.dtype == ml_dtypes.bfloat16 else features
        arrays = {"features": np.ascontiguousarray(bits), "decoded": decoded}
        data = safetensors.numpy.save(arrays, about)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.atomic_file(self._path(rows)) as temporary:
                temporary.write_bytes(data)
            if not (identity := self.folder / "identity.json").exists():
                files.write_text(identity, self._text)
        except OSError as error:
            raise UserError(
                "features cannot be written",
                where=str(self.folder),
                found=str(error),
                fix="check space and permissions, or set train.cache_dir; complete shards are kept",
            ) from error

    def _path(self, rows: slice) -> pathlib.Path:
        return self.folder / f"{rows.start:07d}-{rows.stop:07d}.safetensors"


def _digest(features: np.ndarray, decoded: np.ndarray) -> str:
    return leaves.of_array(features) + leaves.of_array(decoded)


_ABOVE = ("heads/", "balance/")  # parameters above the features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """Features of N images of a data set in V views, on the host."""

    values: np.ndarray  # (V, N, D), in the encoder's output type
    decoded: np.ndarray  # (N,) bool, False: unreadable image, labels ignored


def check_cacheable(run: Run) -> None:
    """Raises UserError unless a run only trains the heads and the balancer."""
    below = {group for path, group in run.groups.items() if not path.startswith(_ABOVE)}
    if trained := sorted(below - {FROZEN}):
        raise UserError(
            "features cannot be cached",
            where="train.cache_features",
            expected="a method that only trains heads, such as lp",
            found=f"{run.method.name}, which trains {', '.join(trained)}",
            fix="switch train.cache_features off, or use lp",
        )
    if run.config.train.cache_views < 1:
        raise UserError(
            "bad config value",
            where="train.cache_views",
            expected="at least 1",
            found=str(run.config.train.cache_views),
            fix="correct it",
        )
    if jax.process_count() > 1:
        raise UserError(
            "features cannot be cached",
            where="train.cache_features",
            expected="one process, with any number of devices",
            found=f"{jax.process_count()} processes",
            fix="run on one host, which is enough for heads",
        )


class ViewExtractor:
    """Computes a vector for every view of every image, or reads it from disk.

    View 0 is the plain image. View v >= 1 is augmented by the run's settings, with a key folded
    from seed, v, data set and row, so that it does not depend on devices, batches or other sets.

    Args:
      run: the run.
      outputs: (variables, images) -> (B, D), of images (B, S, S, 3), uint8 or float32 in [-1, 1].
      variables: on the devices.
      image_size: S.
      identity: JSON values that determine the outputs besides the images and the run's arithmetic.
      mesh: devices over which batches are sharded.
      root: folder of the stores.
      what: the name in progress lines.
    """

    def __init__(
        self,
        run: Run,
        outputs: Callable[[Tree, jax.Array], jax.Array],
        variables: Tree,
        *,
        image_size: int,
        identity: Mapping[str, Any],
        mesh: Mesh,
        root: pathlib.Path,
        what: str,
    ):
        self._run, self._variables, self._mesh, self._root = run, variables, mesh, root
        self._size, self._identity, self._what = image_size, identity, what
        settings, mean = run.config.augment, run.model.config.mean

        def plain(variables: Tree, images: jax.Array, key: jax.Array, rows: jax.Array) -> jax.Array:
            del key, rows
            return outputs(variables, images)

        def augmented(variables: Tree, images: jax.Array, key: jax.Array, rows: jax.Array) -> jax.Array:
            return outputs(variables, augment(images, key, rows, config=settings, mean=mean))

        everywhere = parallel.replicated(mesh)
        self._plain = jax.jit(plain, out_shardings=everywhere)
        self._augmented = jax.jit(augmented, out_shardings=everywhere)
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
        self._one = jax.eval_shape(outputs, variables, images)

    def __call__(
        self, dataset: PreparedDataset, *, views: int, name: str, console: Console = QUIET
    ) -> Features:
        """Returns the vectors of a data set in V views; every complete shard is kept.

        Args:
          dataset: the images.
          views: V.
          name: the name in progress lines.
          console: shows progress; checked before every batch.

        Raises:
          UserError: too many images cannot be decoded, or a shard cannot be written.
        """
        size = len(dataset)
        values = np.empty((views, size, self._one.shape[-1]), self._one.dtype)
        decoded = np.ones(size, bool)
        stores = [self._store(dataset, view) for view in range(views)]
        meter = console.meter(f"{self._what} of {name}", size * views)
        for rows in stores[0].shards():
            missing = []
            for view, store in enumerate(stores):
                shard = store.read(rows)
                if shard is None:
                    missing.append(view)
                else:
                    values[view, rows], decoded[rows] = shard
            if missing:
                decoded[rows] = self._compute(dataset, rows, missing, values, meter, console)
            for view in missing:
                stores[view].write(rows, values[view, rows], decoded[rows])
        if meter.done:
            meter.show()
        else:
            console.say(f"{self._what} of {name}: {size:,} read")
        _check_decoded(decoded, name)
        return Features(values=values, decoded=decoded)

    def _compute(
        self,
        dataset: PreparedDataset,
        rows: slice,
        views: Sequence[int],
        values: np.ndarray,
        meter: Meter,
        console: Console,
    ) -> np.ndarray:
        """Fills values[views, rows]; returns which rows could be decoded, (n,) bool."""
        part, config = dataset.take(np.arange(rows.start, rows.stop)), self._run.config
        batches = pipeline.eval_batches(
            part,
            image_size=self._size,
            batch_size=config.train.eval_batch_size,
            tasks=config.tasks,
            max_rejected=1.0,  # of a shard: the complete data set is checked later
        )
        keys = {view: self._view_key(dataset, view) for view in views}
        for batch in batches:
            console.check()
            own = batch["example"][batch["valid"]] + rows.start
            placed = parallel.to_global(
                {"image": batch["image"], "row": batch["example"] + rows.start}, self._mesh
            )
            for view in views:
                forward = self._augmented if view else self._plain
                precision = config.compute.matmul_precision
                with jax.set_mesh(self._mesh), jax.default_matmul_precision(precision):
                    found = forward(self._variables, placed["image"], keys[view], placed["row"])
                values[view, own] = np.asarray(found)[: len(own)]
            meter.add(len(own) * len(views))
        broken = {rejected.id for rejected in batches.rejected}
        names = (f"{part.name}/{part.split}:{example}" for example in part.columns["id"])
        return np.array([name not in broken for name in names])

    def _view_key(self, dataset: PreparedDataset, view: int) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self._run.config.seed + 2), view)
        return jax.random.fold_in(key, set_number(dataset.fingerprint))

    def _store(self, dataset: PreparedDataset, view: int) -> FeatureStore:
        """Returns the store of a view, identified by everything that determines its values."""
        config = self._run.config
        identity = dict(self._identity) | {
            "data": f"{dataset.name}/{dataset.split}",
            "fingerprint": dataset.fingerprint,
            "image_size": self._size,
            "frozen_types": sorted({leaf.dtype.name for leaf in jax.tree.leaves(self._variables)}),
            "dtype": self._one.dtype.name,
            "compute": config.compute.dtype,
            "matmul_precision": config.compute.matmul_precision,
            "view": view,
        }
        if view:
            identity |= {"augment": dataclasses.asdict(config.augment), "seed": config.seed}
        return FeatureStore(self._root, identity, rows=len(dataset))


class FeatureExtractor(ViewExtractor):
    """Computes the features of data sets with the frozen encoder, or reads them from disk.

    Args:
      run: the run.
      frozen: the frozen tree on the devices.
      base: digest of the frozen tree.
      mesh: devices over which batches are sharded.
      root: folder of the stores.
    """

    def __init__(self, run: Run, frozen: Tree, *, base: str, mesh: Mesh, root: pathlib.Path):
        check_cacheable(run)
        model, task = run.model, run.config.tasks[0]

        def feature(frozen: Tree, images: jax.Array) -> jax.Array:
            return encode(model, frozen, images)[task]  # the same for every task

        identity = {"base": base, "tower": model.config.to_json(), "feature": run.config.model.feature}
        super().__init__(
            run,
            feature,
            frozen,
            image_size=run.image_size,
            identity=identity,
            mesh=mesh,
            root=root,
            what="features",
        )


def _check_decoded(decoded: np.ndarray, name: str) -> None:
    broken = int((~decoded).sum())
    if broken > pipeline.MAX_REJECTED * len(decoded):
        raise UserError(
            "too many images cannot be decoded",
            where=name,
            expected=f"at most {int(pipeline.MAX_REJECTED * len(decoded))} of {len(decoded)}",
            found=str(broken),
            fix="prepare the data again",
        )
