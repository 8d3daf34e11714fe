"""From a configuration to a run: model, method, parameter groups and optimizer."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from softbio_jax.adapters.config import LoRAConfig
from softbio_jax.adapters.dense import reset_adapters
from softbio_jax.adapters.methods import FROZEN, Method, method
from softbio_jax.checkpoints.pretrained import load_pretrained
from softbio_jax.errors import UserError
from softbio_jax.interop.reading import identity
from softbio_jax.losses import balancing
from softbio_jax.models.attention.choice import Choice, resolved
from softbio_jax.models.config import ComputeConfig, VisionConfig, vision_config
from softbio_jax.models.multitask import MultitaskModel
from softbio_jax.params import Tree, by_group, flatten, partition, unflatten
from softbio_jax.ranges import from_mapping
from softbio_jax.runs import config as config_lib
from softbio_jax.runs import optimizer, state
from softbio_jax.runs.chips import CHIPS, chip_of
from softbio_jax.runs.config import RunConfig, config_from
from softbio_jax.runs.state import TrainState
from softbio_jax.tasks import TASKS

if TYPE_CHECKING:
    from softbio_jax.runs.teacher import Teacher

_STREAM_BYTES = 10_000_000  # of a residual stream (B, N, D) of 16 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run before its first step: its configuration, and what the configuration resolves to.

    Args:
      config: the configuration, with a resolved compute.dtype. Only runs/, train/ and planning/ read it.
      model: encoder and heads.
      method: how the encoder is adapted.
      shapes: "/"-joined path -> shape and type of every parameter, the balancer's included.
      groups: "/"-joined path -> parameter group, `FROZEN` where it is not trained.
      optimizer: of the trained parameters.
      image_size: side S in pixels.
      attention: what computes attention in the blocks; the model's compute has it, the configuration
        what was asked for.
      auto_dtype: whether compute.dtype was "auto".
      teacher: what distill.teacher names; None where there is none, or where nothing is trained.
    """

    config: RunConfig
    model: MultitaskModel
    method: Method
    shapes: dict[str, jax.ShapeDtypeStruct]
    groups: dict[str, str]
    optimizer: optax.GradientTransformationExtraArgs
    image_size: int
    attention: Choice
    auto_dtype: bool = False
    teacher: "Teacher | None" = None

    @property
    def view_size(self) -> int:
        """Side in pixels of the images that a training step reads: the larger of student's and teacher's."""
        return max(self.image_size, self.teacher.image_size if self.teacher else 0)

    def sizes(self) -> dict[str, int]:
        """Returns the number of parameters per group, largest first."""
        return by_group(self.shapes, self.groups)

    def has_random_frozen_blocks(self) -> bool:
        """Returns whether encoder blocks stay frozen at their random initialisation."""
        frozen = (path for path, group in self.groups.items() if group == FROZEN)
        return not self.config.model.pretrained and any(p.startswith("encoder/") for p in frozen)

    def trained_and_total(self) -> tuple[int, int]:
        """Returns the number of trained and of all parameters."""
        total = sum((sizes := self.sizes()).values())
        return total - sizes.get(FROZEN, 0), total

    def summary(self) -> dict[str, Any]:
        """Returns how an evaluation names the model: variant, method and parameter counts."""
        trained, total = self.trained_and_total()
        return {
            "variant": self.model.config.name,
            "method": self.method.name,
            "trainable_params": trained,
            "total_params": total,
        }


def build(
    config: RunConfig | Mapping[str, Any],
    *,
    devices: Sequence[Any] | None = None,
    teacher: "Teacher | None" = None,
) -> Run:
    """Returns the run of a configuration; no weights are read.

    "auto" of compute.dtype and compute.attention becomes what suits the devices.

    Args:
      config: complete, or a nested mapping such as `ConfigDict.to_dict()`.
      devices: that are compiled for; None: all of JAX's.
      teacher: that of the configuration, see `train.distillation.teacher.load`, if the run is trained.

    Raises:
      UserError: an unknown key or name, a bad value, or a method that does not fit the model.
    """
    config = config if isinstance(config, RunConfig) else config_from(config)
    devices = jax.devices() if devices is None else devices
    config_lib.check(config, devices)
    auto = config.compute.dtype == "auto"
    config = config_lib.resolve_dtype(config, devices)
    config = _with_variant(config)
    encoder = _encoder(config)
    chosen = method_of(config.method)
    image_size = config.model.image_size or encoder.image_size
    encoder.check_image_size(image_size, where="model.image_size")
    patches = (image_size // encoder.patch_size,) * 2
    configured = ComputeConfig(**dataclasses.asdict(config.compute))
    compute, attention = resolved(configured, encoder, devices, tokens=encoder.tokens_on(patches))
    rows = compute.block_rows or rows_on_chip(devices[0].device_kind, encoder, patches)
    model = MultitaskModel(
        encoder,
        compute=dataclasses.replace(compute, block_rows=rows),
        adapters=chosen.rules,
        tail=chosen.tail,
        tasks=tuple(TASKS[name] for name in config.tasks),
        head=config.model.head,
        feature=config.model.feature,
        flip_average=config.model.flip_average,
    )
    shapes = flatten(abstract_params(config, model))
    groups = chosen.label(list(shapes))
    _check_pooling(config, encoder, groups)
    trainable = {path: group for path, group in groups.items() if group != FROZEN}
    optimizer.check_lbfgs(config, trainable)
    return Run(
        config=config,
        model=model,
        method=chosen,
        shapes=shapes,
        groups=groups,
        optimizer=optimizer.make(config.optimizer, trainable, steps=config.train.steps),
        image_size=image_size,
        attention=attention,
        auto_dtype=auto,
        teacher=teacher and teacher.on(configured, devices),
    )


def rows_on_chip(device_kind: str, encoder: VisionConfig, patches: tuple[int, int]) -> int:
    """Returns how many rows per device a block computes at once in training; 0: all.

    Of L14 at 336 pixels 8 rows, whose residual stream takes 9.5 MB: their intermediate values stay in the
    128 MiB of vector memory that a v5e and a v6e have.
    """
    if chip_of(device_kind) not in (CHIPS["v5e"], CHIPS["v6e"]):
        return 0
    return max(1, _STREAM_BYTES // (2 * encoder.tokens_on(patches) * encoder.width))


def abstract_params(config: RunConfig, model: MultitaskModel) -> Tree:
    """Returns the shapes of every parameter, the balancer's included."""
    variables = jax.eval_shape(lambda: _init(model, jax.random.key(0)))
    params: Tree = variables["params"] | _balance(config)
    return params | jax.eval_shape(lambda: _projection(config, model, jax.random.key(0)))


def start(run: Run, mesh: Mesh | None = None) -> tuple[TrainState, Tree]:
    """Returns the state before the first step and the frozen tree, all in float32.

    Weights come from the pretrained file, where one is named, and from the seed for everything
    that it does not hold. Random weights are drawn on one device, so that they are the same bits
    on every mesh.

    Args:
      run: what is started.
      mesh: where the state is placed. Frozen weights read from a file stay on the host.
    """
    key = jax.random.key(run.config.seed)
    base: dict[str, Any] = {}
    if run.config.model.pretrained:
        model = run.model
        variant = vision_config(run.config.model.variant)
        whole = dataclasses.replace(model.config, name=variant.name, layers=variant.layers)
        blocks = model.config.layers
        base = flatten(
            load_pretrained(run.config.model.pretrained, config=whole, blocks=blocks, tail=model.tail)
        )

    def fresh(key: jax.Array) -> tuple[dict[str, jax.Array], Tree]:
        variables = _init(run.model, key)
        flat = flatten(variables["params"] | _projection(run.config, run.model, key))
        # Weights of the file are not drawn: jit drops the dead code.
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
    scaled = run.config.compute.dtype == "float16"
    return state.create(trainable, batch_stats, run.optimizer, mesh=mesh, scaled=scaled), frozen


def abstract_start(run: Run) -> tuple[TrainState, Tree]:
    """Returns the shapes of `start`; no weights are read or drawn."""
    model = dataclasses.replace(run.config.model, pretrained="")
    unread = dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))
    return jax.eval_shape(lambda: start(unread))


def narrow(frozen: Tree, config: RunConfig) -> Tree:
    """Returns the frozen tree with kernels in `config.frozen_dtype`; vectors stay float32."""
    dtype = config_lib.frozen_dtype(config, jax.default_backend())
    flat = flatten(frozen)
    kernels = {path for path in flat if path.endswith(("/kernel", "proj"))}
    return unflatten({path: leaf.astype(dtype) if path in kernels else leaf for path, leaf in flat.items()})


def describe(run: Run) -> str:
    """Returns what is printed at the start: a table of parameters per group, the type and the attention."""
    sizes, leaves = run.sizes(), collections.Counter(run.groups.values())
    rates = run.config.optimizer.rates
    rows = [f"{'group':<14}{'rate':>10}{'leaves':>8}{'parameters':>14}"]
    for group in sorted(sizes, key=lambda g: (g == FROZEN, -sizes[g])):
        rate = f"{rates[group]:.1e}" if group in rates and group != FROZEN else "-"
        rows.append(f"{group:<14}{rate:>10}{leaves[group]:>8}{sizes[group]:>14,}")
    trained, total = run.trained_and_total()
    rows.append(f"{'trainable':<32}{trained:>14,}  ({100 * trained / total:.2f} % of {total:,})")
    dtype = run.config.compute.dtype
    notes = ["auto"] * run.auto_dtype + ["dynamic loss scaling"] * (dtype == "float16")
    rows.append(f"{'compute dtype':<32}{dtype:>14}" + (f"  ({', '.join(notes)})" if notes else ""))
    if decay := run.config.optimizer.ema_decay:
        rows.append(
            f"{'evaluated and exported':<32}{'average':>14}  (of the trained weights, decay {decay:g})"
        )
    notes = ["auto"] * (run.config.compute.attention == "auto") + [run.attention.why] * bool(
        run.attention.why
    )
    rows.append(f"{'attention':<32}{run.attention.name:>14}" + (f"  ({'; '.join(notes)})" if notes else ""))
    if run.teacher is not None:
        rows.append(f"{'teacher':<32}{run.teacher.model.config.name:>14}  ({run.teacher})")
    return "\n".join(rows)


def overview(run: Run) -> str:
    """Returns a table of every trained leaf: path, shape, type, number of elements."""
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


def _projection(config: RunConfig, model: MultitaskModel, key: jax.Array) -> Tree:
    """Returns the projection of the feature to the teacher's, (D, E), where the run learns from that."""
    distill, encoder = config.distill, model.config
    if distill.feature == "none" or not distill.feature_width:
        return {}
    width = encoder.out_dim or encoder.width if model.feature == "projected" else encoder.feature_width
    draw = jax.nn.initializers.lecun_normal()
    kernel = draw(jax.random.fold_in(key, 1), (width, distill.feature_width), jnp.float32)
    return {"distill": {"projection": {"kernel": kernel}}}


def _with_variant(config: RunConfig) -> RunConfig:
    if config.model.variant != "auto":
        return config
    variant = identity.variant_of(config.model.pretrained)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, variant=variant))


def _encoder(config: RunConfig) -> VisionConfig:
    encoder = vision_config(config.model.variant)
    if config.model.blocks:
        encoder = encoder.first(config.model.blocks, where="model.blocks")
    # The heads read one vector per image; the dense variants are published without a pooling.
    pooling = config.model.pooling or ("avg" if encoder.pooling == "none" else encoder.pooling)
    if pooling == "none":
        raise UserError(
            "no pooling for the heads",
            where="model.pooling",
            expected="attn, tok, avg or tok+avg",
            found="none",
            fix="choose one of them",
        )
    if pooling == encoder.pooling:
        return encoder
    # A projection is trained with its own pooling.
    return dataclasses.replace(encoder, pooling=pooling, out_dim=None)


def _check_pooling(config: RunConfig, encoder: VisionConfig, groups: Mapping[str, str]) -> None:
    """Checks that a new attention pooling is trained, and that there is one to train."""
    name, own = config.method["name"], vision_config(config.model.variant).pooling
    if name == "ap" and encoder.pooling != "attn":
        raise UserError(
            "no attention pooling to train",
            where=f"method ap with {encoder.name}",
            expected="pooling attn",
            found=encoder.pooling,
            fix="set model.pooling=attn, which starts a new one, or use another method",
        )
    trained = all(group != FROZEN for path, group in groups.items() if path.startswith("pool/"))
    if encoder.pooling == "attn" and own != "attn" and not trained and config.model.pretrained:
        raise UserError(
            "a new pooling that the method does not train",
            where=f"model.pooling with method {name}",
            expected=f"the pooling of {encoder.name}, {own}, or a method that trains it",
            found="attn, of which it has no weights",
            fix="leave model.pooling empty, or use ap, ft or full",
        )


def method_of(values: Mapping[str, Any]) -> Method:
    """Returns the method of `config.method`.

    Raises:
      UserError: an unknown name, key or value.
    """
    arguments = dict(values)
    name = arguments.pop("name", "")
    if "lora" in arguments:
        arguments["config"] = from_mapping(LoRAConfig, arguments.pop("lora"), "config.method.lora")
    return method(name, **arguments)
