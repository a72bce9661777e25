"""Loss by size and tokens, L(N, D) = E + A / N^alpha + B / D^beta (Chinchilla's form).

E, alpha and beta are one for all families, since text and tokenizer are; A and B are the family's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .noise import Floats, Noise, interval, larger
from .results import Row
from .robust import robust_fit

_SHARED = 3
"""E, alpha, beta: the first parameters."""
_SPARE = 2
"""Runs beyond the number of parameters, at least."""
_LOG_TERM = (-20.0, 5.0)
EXPONENT_LIMITS = (0.0, 3.0)
"""Of alpha and beta."""


class _Data(NamedTuple):
    """Logarithms of size and tokens around their means, of loss; each run's family by number."""

    n: Floats
    d: Floats
    loss: Floats
    family: np.ndarray[Any, np.dtype[np.int64]]

    def take(self, which: np.ndarray[Any, np.dtype[np.int64]]) -> _Data:
        return _Data(self.n[which], self.d[which], self.loss[which], self.family[which])


class Surface(NamedTuple):
    """The fit, the same fitted to resampled runs, and the noise of log loss around it."""

    families: list[str]
    center: tuple[float, float]
    parameters: Floats
    replicas: list[Floats]
    noise: Noise
    runs: int

    def at(self, row: Row) -> float:
        """Loss of a run's size and tokens."""
        return float(np.exp(_log_loss(self.parameters, self._data([row])))[0])

    def predict(self, row: Row, rng: np.random.Generator) -> tuple[float, float]:
        """The interval of the loss that a run is expected to have."""
        data = self._data([row])
        expected = np.array([_log_loss(p, data)[0] for p in self.replicas])
        low, high = self.noise.around(rng, expected)
        return math.exp(low), math.exp(high)

    def _data(self, rows: Sequence[Row]) -> _Data:
        return _data(rows, self.families, self.center)

    def as_dict(self) -> dict[str, Any]:
        """For the report; `size_exponent` is that of the best size over compute."""
        drawn = np.array(self.replicas)
        e, alpha, beta = self.parameters[:_SHARED]
        count = len(self.families)
        size, tokens = self.center
        return {
            "irreducible": math.exp(e),
            "irreducible_interval": interval(np.exp(drawn[:, 0])),
            "alpha": alpha,
            "alpha_interval": interval(drawn[:, 1]),
            "beta": beta,
            "beta_interval": interval(drawn[:, 2]),
            "size_exponent": _share(alpha, beta),
            "size_exponent_interval": interval(_share(drawn[:, 1], drawn[:, 2])),
            "families": {
                name: {
                    "a": math.exp(self.parameters[_SHARED + n] + alpha * math.log(size)),
                    "b": math.exp(self.parameters[_SHARED + count + n] + beta * math.log(tokens)),
                }
                for n, name in enumerate(self.families)
            },
            "runs": self.runs,
            "noise_of_log_loss": self.noise._asdict(),
        }


def _share(alpha: Any, beta: Any) -> Any:
    return beta / np.maximum(alpha + beta, 1e-9)


def fit_surface(
    rows: Sequence[Row], seeds: Noise | None, rng: np.random.Generator
) -> Surface | str:
    """The surface through runs, or why there is none. `seeds` is the noise of a loss in nats.

    The uncertainty is that of the runs (resampled within their family) and of their seeds.
    """
    families = list(dict.fromkeys(row.family for row in rows))
    parameters = _SHARED + 2 * len(families)
    if reason := _too_few(rows, families, parameters):
        return reason
    size, tokens = zip(*((row.params_active_no_head, row.tokens) for row in rows), strict=True)
    center = (math.exp(np.mean(np.log(size))), math.exp(np.mean(np.log(tokens))))
    data = _data(rows, families, center)
    best = _fit(data, _starts(data, len(families)), len(families))
    misfit = data.loss - _log_loss(best, data)
    dof = len(rows) - parameters
    spread = Noise(math.sqrt(float(misfit @ misfit) / dof), dof)
    seed = seeds and Noise(seeds.sigma / math.exp(float(np.mean(data.loss))), seeds.dof)
    replicas = _resampled(data, best, seed, rng)
    noise = larger(seed, spread) or spread
    return Surface(families, center, best, replicas, noise, len(rows))


def _too_few(rows: Sequence[Row], families: list[str], parameters: int) -> str | None:
    if len(rows) < parameters + _SPARE:
        return (
            f"{len(rows)} runs to fit, {parameters} parameters need at least {parameters + _SPARE}"
        )
    for family in families:
        of = [row for row in rows if row.family == family]
        pairs = (
            ("sizes", {r.params_active_no_head for r in of}),
            ("tokens", {r.tokens for r in of}),
        )
        for what, values in pairs:
            if len(values) < 2:
                return f"family `{family}` has one number of {what}"
    return None


def _data(rows: Sequence[Row], families: list[str], center: tuple[float, float]) -> _Data:
    return _Data(
        np.log([row.params_active_no_head / center[0] for row in rows]),
        np.log([row.tokens / center[1] for row in rows]),
        np.log([row.final_loss for row in rows]),
        np.array([families.index(row.family) for row in rows]),
    )


def _terms(parameters: Floats, data: _Data) -> Floats:
    """Logarithms of the three terms of each run's loss."""
    (e, alpha, beta), rest = parameters[:_SHARED], parameters[_SHARED:]
    a, b = rest.reshape(2, -1)
    size, tokens = a[data.family] - alpha * data.n, b[data.family] - beta * data.d
    return np.stack([np.full_like(size, e), size, tokens])


def _log_loss(parameters: Floats, data: _Data) -> Floats:
    made: Floats = np.logaddexp.reduce(_terms(parameters, data))
    return made


def _jacobian(parameters: Floats, data: _Data) -> Floats:
    """Of the log losses: each term's share of the loss, times what its logarithm changes by."""
    terms = _terms(parameters, data)
    floor, size, tokens = np.exp(terms - np.logaddexp.reduce(terms))
    shared = [floor, -size * data.n, -tokens * data.d]
    own = np.eye((len(parameters) - _SHARED) // 2)[data.family]
    return np.hstack([np.stack(shared, axis=1), own * size[:, None], own * tokens[:, None]])


def _fit(data: _Data, starts: Sequence[Sequence[float]], count: int) -> Floats:
    limits = [_LOG_TERM, EXPONENT_LIMITS, EXPONENT_LIMITS, *[_LOG_TERM] * (2 * count)]
    low, high = [pair[0] for pair in limits], [pair[1] for pair in limits]
    return robust_fit(
        lambda p: _log_loss(p, data) - data.loss,
        lambda p: _jacobian(p, data),
        starts,
        (low, high),
    )


def _starts(data: _Data, count: int) -> list[list[float]]:
    """By the share of the loss that is irreducible, and the two exponents."""
    mean = math.exp(float(np.mean(data.loss)))
    return [
        [math.log(share * mean), alpha, beta, *[math.log((1 - share) / 2 * mean)] * (2 * count)]
        for share, alpha, beta in itertools.product((0.2, 0.6), (0.2, 0.6), (0.2, 0.6))
    ]


def _resampled(
    data: _Data, best: Floats, seed: Noise | None, rng: np.random.Generator
) -> list[Floats]:
    """Fits to runs drawn again within each family, with other noise of seeds."""
    count = int(data.family.max()) + 1
    members = [np.flatnonzero(data.family == n) for n in range(count)]
    errors = (seed or Noise(0.0, 1)).draw(rng, len(data.loss))
    found = []
    for row in errors:
        which = np.concatenate([_drawn(of, data, rng) for of in members])
        drawn = data.take(which)
        noisy = drawn._replace(loss=drawn.loss + row)
        found.append(_fit(noisy, [best.tolist()], count))
    return found


def _drawn(of: np.ndarray[Any, Any], data: _Data, rng: np.random.Generator) -> Any:
    """Runs of a family, as many as it has, with two sizes and two numbers of tokens at least."""
    while True:
        which = rng.choice(of, len(of))
        if len(set(data.n[which])) > 1 and len(set(data.d[which])) > 1:
            return which
