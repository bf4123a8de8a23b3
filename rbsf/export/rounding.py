"""Rounds the first layer's weights to few bits while its sums over images change little.

Neighbouring pixels are similar, so the weights around a weight can compensate for its rounding
error. Weights are rounded one after another, and the error of each is spread over those that
follow. This method is GPTQ (Frantar et al., ICLR 2023, after Optimal Brain Surgeon).

It needs the covariance of the inputs. Here this is modelled instead of measured: the correlation of
two pixels at a distance of d pixels is exp(-d / 20), and two colours of a pixel have a correlation
of 0.9.
"""

from __future__ import annotations

import numpy as np

REACH = 20.0  # pixels over which the correlation falls to 1/e
COLOURS = 0.9  # correlation of two colours
DAMP = 0.03  # white noise added to the covariance
FACTORS = np.linspace(1, 0.3, 29)  # steps to try, relative to the one that clips no weight


def round_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[O, I, k, k]` as whole numbers within +-(2^(bits-1) - 1), and their steps `[O]`.

    Both are float64. Of all tried steps, a filter gets the one with the smallest mean squared error
    of its sums. A step is accepted only if the largest whole number is the limit, so that rounding
    rounded weights again does not change them. The step of a filter of zeros is 1.
    """
    limit = 2 ** (bits - 1) - 1
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(flat).max(1)
    steps = FACTORS[:, None] * np.where(largest, largest, limit) / limit  # [F, O]
    step = steps[..., None]
    covariance = _covariance(weight.shape[1:])
    tries = np.broadcast_to(flat, (len(FACTORS), *flat.shape))
    whole = _round_in_turn(tries, step, covariance, limit)  # [F, O, n]
    errors = whole * step - flat
    loss = ((errors @ covariance) * errors).sum(2)  # [F, O]
    loss[np.abs(whole).max(2) < limit] = np.inf
    best = np.where(largest, loss.argmin(0), 0), np.arange(len(flat))
    return whole[best].reshape(weight.shape), steps[best]


def _covariance(shape: tuple[int, ...]) -> np.ndarray:
    """Model of the inputs' covariance `[n, n]` for filters of `shape` `[I, rows, columns]`.

    n is I * rows * columns.
    """
    colours, rows, columns = shape
    place = np.indices((rows, columns)).reshape(2, -1)
    apart = place[:, :, None] - place[:, None]
    distance = np.hypot(*apart)
    alike = np.where(np.eye(colours), 1.0, COLOURS)
    noise = DAMP * np.eye(colours * rows * columns)
    return np.kron(alike, np.exp(-distance / REACH)) + noise


def _round_in_turn(
    weight: np.ndarray, step: np.ndarray, covariance: np.ndarray, limit: int
) -> np.ndarray:
    """Round weights `[F, O, n]` to whole numbers of steps `[F, O, 1]`.

    The error of each weight changes the weights after it.
    """
    spread = np.linalg.cholesky(np.linalg.inv(covariance)).T  # upper triangle
    left = weight / step
    whole = np.empty(weight.shape)
    for i, row in enumerate(spread):
        whole[..., i] = np.clip(np.rint(left[..., i]), -limit, limit)
        error = (left[..., i] - whole[..., i]) / row[i]
        left[..., i + 1 :] -= error[..., None] * row[i + 1 :]
    return whole
