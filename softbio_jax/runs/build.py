"""From a resolved configuration to the parts of a run."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.adapters.merge import reset_adapters
from softbio_jax.adapters.methods import FROZEN, Method, method
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.losses import balancing
from softbio_jax.models.config import VisionConfig, vision_config
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, by_group, flatten, partition, unflatten
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import optimizer, state
from softbio_jax.runs.config import RunConfig, from_mapping
from softbio_jax.runs.state import TrainState
from softbio_jax.runs.step import StepConfig, TrainStep, make_train_step
from softbio_jax.tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """A run before its first step: what is computed and what computes it.

    Args:
      config: what it was made from; nothing below train/ and planning/ sees it.
      model: the tower and its heads.
      method: how the tower is adapted.
      shapes: "/"-joined path -> shape and type of every parameter, the balancer's included.
      groups: the group of each path, `FROZEN` where it is not trained.
      optimizer: for the trained ones.
      image_size: side S in pixels.
    """

    config: RunConfig
    model: MultitaskModel
    method: Method
    shapes: dict[str, jax.ShapeDtypeStruct]
    groups: dict[str, str]
    optimizer: optax.GradientTransformationExtraArgs
    image_size: int

    def sizes(self) -> dict[str, int]:
        """Returns the number of parameters in each group, largest first."""
        return by_group(self.shapes, self.groups)

    def has_random_frozen_blocks(self) -> bool:
        """Returns whether blocks are frozen as the seed drew them: no pretrained file is named."""
        frozen = (path for path, group in self.groups.items() if group == FROZEN)
        return not self.config.model.pretrained and any(p.startswith("encoder/") for p in frozen)

    def trained_and_total(self) -> tuple[int, int]:
        """Returns how many parameters are trained, and how many there are."""
        sizes = self.sizes()
        total = sum(sizes.values())
        return total - sizes.get(FROZEN, 0), total


def parts(config: RunConfig) -> Parts:
    """Returns a run's parts, made from shapes alone: no weights are read.

    Raises:
      UserError: a name that does not exist, or a method that does not fit the model.
    """
    config_lib.check(config)
    tower = _tower(config)
    chosen = _method(config.method)
    model = MultitaskModel(
        tower,
        compute=config.compute,
        adapters=chosen.rules,
        tail=chosen.tail,
        tasks=tuple(TASKS[name] for name in config.tasks),
        head=config.model.head,
        feature=config.model.feature,
    )
    image_size = config.model.image_size or tower.image_size
    if image_size < 0 or image_size % tower.patch_size:
        below = max(image_size // tower.patch_size, 1) * tower.patch_size
        raise UserError(
            "pictures are not whole patches",
            where="model.image_size",
            expected=f"a multiple of {tower.patch_size}",
            found=str(image_size),
            fix=f"set it to {below} or {below + tower.patch_size}",
        )
    shapes = flatten(abstract_params(config, model))
    groups = chosen.label(list(shapes))
    trainable = {path: group for path, group in groups.items() if group != FROZEN}
    return Parts(
        config=config,
        model=model,
        method=chosen,
        shapes=shapes,
        groups=groups,
        optimizer=optimizer.make(config.optimizer, trainable, steps=config.train.steps),
        image_size=image_size,
    )


def abstract_params(config: RunConfig, model: MultitaskModel) -> Tree:
    """Returns the shapes of every parameter, the balancer's included."""
    variables = jax.eval_shape(lambda: _init(model, jax.random.key(0)))
    return variables["params"] | _balance(config)


def start(run: Parts, mesh: Mesh | None = None) -> tuple[TrainState, Tree]:
    """Returns the state before the first step and the frozen tree, all in float32.

    Weights come, in this order, from the pretrained file where one is named and from the seed
    for all it does not hold: adapters and heads, or everything. What is drawn is drawn on one
    device, so that it is the same bits on every mesh.

    Args:
      run: the parts of the run.
      mesh: where the state is put. The frozen tree stays on the host where a file gave it.
    """
    key = jax.random.key(run.config.seed)
    base: dict[str, Any] = {}
    if run.config.model.pretrained:
        base = flatten(
            load_pretrained(run.config.model.pretrained, config=run.model.config, tail=run.model.tail)
        )

    def fresh(key: jax.Array) -> tuple[dict[str, jax.Array], Tree]:
        variables = _init(run.model, key)
        flat = flatten(variables["params"])
        # What the file holds is not drawn: jit drops the dead code.
        missing = {path: leaf for path, leaf in flat.items() if path not in base}
        return missing, variables.get("batch_stats", {})

    missing, batch_stats = jax.jit(fresh)(key)
    params = unflatten(missing | base)
    if base:
        params = reset_adapters(params)
    params |= _balance(run.config)
    if means := balancing.init_means(run.config.tasks, run.config.balancing):
        batch_stats |= {"balance": means}
    trainable, frozen = partition(params, lambda path: run.groups[path] != FROZEN)
    return state.create(trainable, batch_stats, run.optimizer, mesh=mesh), frozen


def abstract_start(run: Parts) -> tuple[TrainState, Tree]:
    """Returns the shapes of `start`; no weights are read or drawn."""
    model = dataclasses.replace(run.config.model, pretrained="")
    unread = dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))
    return jax.eval_shape(lambda: start(unread))


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """Returns the frozen configuration of a nested mapping, such as a ConfigDict's.

    Raises:
      UserError: an unknown or missing key, or a value of the wrong type.
    """
    return from_mapping(RunConfig, values)


def narrow(frozen: Tree, config: RunConfig) -> Tree:
    """Returns the frozen tree with kernels in the frozen type; vectors stay float32."""
    dtype = config.frozen_dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return unflatten(
        {
            path: leaf.astype(dtype) if path.endswith(("/kernel", "proj")) else leaf
            for path, leaf in flatten(frozen).items()
        }
    )


def train_step(run: Parts, *, optimizer: optax.GradientTransformationExtraArgs | None = None) -> TrainStep:
    """Returns a run's train step, to be jitted; see `make_train_step`.

    Args:
      run: the parts of the run.
      optimizer: in place of the run's own.
    """
    settings = StepConfig(
        augment=run.config.augment, balancing=run.config.balancing, microbatches=run.config.train.microbatches
    )
    return make_train_step(run.model, optimizer or run.optimizer, settings)


def describe(run: Parts) -> str:
    """Returns the table of parameters a group that is printed at the start."""
    sizes, leaves = run.sizes(), collections.Counter(run.groups.values())
    rows = [f"{'group':<14}{'rate':>10}{'leaves':>8}{'parameters':>14}"]
    for group in sorted(sizes, key=lambda g: (g == FROZEN, -sizes[g])):
        rate = "-" if group == FROZEN else f"{run.config.optimizer.rates[group]:.1e}"
        rows.append(f"{group:<14}{rate:>10}{leaves[group]:>8}{sizes[group]:>14,}")
    trained, total = run.trained_and_total()
    rows.append(f"{'trainable':<32}{trained:>14,}  ({100 * trained / total:.2f} % of {total:,})")
    return "\n".join(rows)


def overview(run: Parts) -> str:
    """Returns a table of every trained leaf: path, shape, type, elements."""
    from clu import parameter_overview

    trained = {path: leaf for path, leaf in run.shapes.items() if run.groups[path] != FROZEN}
    table: str = parameter_overview.get_parameter_overview(unflatten(trained), include_stats=False)
    return table


def _init(model: MultitaskModel, key: jax.Array) -> dict[str, Any]:
    size = model.config.patch_size  # parameters do not depend on the resolution
    return dict(model.init(key, jnp.zeros((1, size, size, 3), jnp.float32)))


def _balance(config: RunConfig) -> Tree:
    tree = balancing.init(config.tasks, config.balancing)
    return {"balance": tree} if tree else {}


def _tower(config: RunConfig) -> VisionConfig:
    tower = vision_config(config.model.variant)
    # The heads read one vector an image; the dense variants are published without a pooling.
    return dataclasses.replace(tower, pooling="avg") if tower.pooling == "none" else tower


def _method(values: Mapping[str, Any]) -> Method:
    arguments = dict(values)
    name = arguments.pop("name", "")
    if "lora" in arguments:
        arguments["config"] = from_mapping(LoRAConfig, arguments.pop("lora"), "config.method.lora")
    return method(name, **arguments)
