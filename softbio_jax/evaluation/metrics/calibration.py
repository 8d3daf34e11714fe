"""How reliable probabilities are: proper scores, calibration error, temperature scaling."""

import dataclasses

import numpy as np

# A probability that underflowed to zero costs -log(1e-12) = 27.6 nats instead of infinity.
LEAST_PROBABILITY = 1e-12
NUM_BINS = 15
TEMPERATURE_RANGE = (0.05, 20.0)


def negative_log_likelihood(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns -log p_y of each example in nats, (n,) float64, for true classes y (n,) and p (n, C)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(chosen, LEAST_PROBABILITY))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the Brier score sum_c (p_c - [y = c])^2 of each example, 0 to 2, (n,) float64.

    Source: Brier, Monthly Weather Review 1950, in its original form for several classes.
    """
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(labels)), labels] -= 1
    return (errors**2).sum(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy in equal-width bins of the top probability.

    Args:
      edges: (M + 1,) bin borders from 0 to 1; a bin holds (low, high].
      n: (M,) examples in each bin.
      confidence: (M,) mean top probability, NaN in an empty bin.
      accuracy: (M,) share of correct predictions, NaN in an empty bin.
    """

    edges: np.ndarray
    n: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error, sum_m n_m / n |accuracy_m - confidence_m|."""
        filled = self.n > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float((self.n[filled] * gaps).sum() / self.n.sum())

    def filled_bins(self) -> list[dict[str, float]]:
        """Returns `low`, `high`, `n`, `confidence` and `accuracy` of each bin with examples."""
        return [
            {
                "low": float(self.edges[i]),
                "high": float(self.edges[i + 1]),
                "n": int(self.n[i]),
                "confidence": float(self.confidence[i]),
                "accuracy": float(self.accuracy[i]),
            }
            for i in np.flatnonzero(self.n)
        ]


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, num_bins: int = NUM_BINS) -> Reliability:
    """Bins examples by the probability of the predicted class.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    confidence, correct = top(labels, probabilities)
    bins = bin_of(confidence, num_bins)
    n = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, correct))
    with np.errstate(invalid="ignore"):
        means = [total / n for total in sums]
    return Reliability(edges=np.linspace(0, 1, num_bins + 1), n=n, confidence=means[0], accuracy=means[1])


def top(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each example's confidence max_c p_c and whether that class is right, (n,) float64."""
    correct = probabilities.argmax(axis=1) == labels
    return probabilities.max(axis=1).astype(np.float64), correct.astype(np.float64)


def bin_of(confidence: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the index of the equal-width bin (low, high] of each confidence, (n,) int64 in [0, M).

    A confidence may exceed 1 by the tolerance of `Predictions`.
    """
    return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns softmax(log p / T) (n, C) float64, which is softmax(logits / T) for p = softmax(logits).

    T > 1 softens and T < 1 sharpens; the predicted classes stay the same.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY)) / temperature
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Returns the temperature in `TEMPERATURE_RANGE` that minimises the mean NLL of validation examples.

    Source: Guo et al., ICML 2017, section 4.2.
    """
    from scipy import optimize

    def loss(log_temperature: float) -> float:
        scaled = with_temperature(probabilities, float(np.exp(log_temperature)))
        return float(negative_log_likelihood(labels, scaled).mean())

    bounds = tuple(np.log(TEMPERATURE_RANGE))
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
