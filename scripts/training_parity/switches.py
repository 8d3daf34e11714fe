"""Where PyTorch's own behaviour differs from this package's on purpose, as switches of the twin."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switches:
    """What the twin does like this package; False: as PyTorch, peft or the reference's code does by itself.

    Every field's comment says what the other side does, in the words of the table in the documentation.
    """

    # torch's clip_grad_norm_ divides by norm + 1e-6, optax by the norm
    exact_clipping: bool = True
    # torch counts the steps of a tensor without a gradient apart, so that Adam's bias correction starts late
    common_count: bool = True
    # a head sees a batch without a label of its task, so that its running statistics move
    absent_heads_held: bool = True
    # dropout keeps 1 - p; adapters' p is a multiple of 2^-16 here
    rounded_dropout: bool = True
    # timm rounds sine and cosine of the rotary angles to float32
    wide_rotary: bool = True
    # the official pooling reads the weights of its projections without calling them, so that their adapters
    # get no gradient
    live_pooling: bool = True
    # peft adds the update of a MultiheadAttention's output projection twice
    single_output_update: bool = True
    # batch norm of a replica sees its own rows (False: of `replicas` replicas); here the global batch
    global_statistics: bool = True
    replicas: int = 2


OURS = Switches()
