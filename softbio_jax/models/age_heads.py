"""What an age head predicts: nine classes, an ordinal chain of decisions, or a distribution over years.

Each is a distribution, so that every kind of label has its likelihood, and the nine classes are sums.
"""

import jax
import jax.numpy as jnp

from softbio_jax.tasks import AGE_SPANS, NUM_YEARS


def ordinal_log_probabilities(logits: jax.Array) -> jax.Array:
    """Returns log P(class) (B, C) of the C - 1 conditional decisions of CORN.

    With f_k = sigmoid(logit_k) = P(class > k | class >= k):

      P(class = k) = (1 - f_k) prod_{j < k} f_j,   P(class = C - 1) = prod_j f_j

    Its cross-entropy is CORN's loss: the sum of the binary ones over the subsets that reach each decision.

    Args:
      logits: (B, C - 1).

    Source: Shi, Cao and Raschka 2023, arXiv:2111.08851, equations 3 to 5.
    """
    further = jnp.cumsum(jax.nn.log_sigmoid(logits), axis=-1)
    reached = jnp.pad(further, ((0, 0), (1, 0)))  # log P(class >= k)
    stops = jnp.pad(jax.nn.log_sigmoid(-logits), ((0, 0), (0, 1)))
    return reached + stops


def classes_of_years(logits: jax.Array) -> jax.Array:
    """Returns log sum_{y in class} exp(logit_y), (B, 9) for (B, 101): its softmax are the class' sums.

    Source: Rothe et al., IJCV 2018, for ages as a distribution over 101 years.
    """
    return jnp.stack([jax.nn.logsumexp(logits[:, first:end], axis=-1) for first, end in AGE_SPANS], axis=-1)


def expected_years(logits: jax.Array) -> jax.Array:
    """Returns sum_y p_y y in years, (B,) for logits (B, 101).

    Source: Rothe et al., IJCV 2018, section 3.4.
    """
    return jax.nn.softmax(logits, axis=-1) @ jnp.arange(NUM_YEARS, dtype=jnp.float32)
