"""The first layer's weights in few bits, so that its sums over images stay near what they were.

Neighbouring pixels are alike: what the rounding of one weight adds to a sum, the weights around it
can take back. So weights are rounded one after another, and the error of each is spread over those
that follow. That is GPTQ (Frantar et al., ICLR 2023, after Optimal Brain Surgeon).

It needs the covariance of the inputs. That is not measured here but modelled: the correlation of
two pixels falls with their distance d in pixels, exp(-d / 20), and two colours of a pixel correlate
by 0.9.
"""

from __future__ import annotations

import numpy as np

REACH = 20.0  # pixels over which the correlation falls to 1/e
COLOURS = 0.9  # correlation of two colours
DAMP = 0.03  # share of white noise in the covariance
FACTORS = np.linspace(1, 0.3, 29)  # steps to try, in shares of the one that clips no weight


def round_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[O, I, k, k]` as whole numbers within +-(2^(bits-1) - 1), and their steps `[O]`.

    Both are float64. Of all steps that are tried, a filter gets the one with the least mean squared
    error of its sums. Only those steps count whose largest whole number is the limit, so that
    rounded weights, rounded again, stay as they are. The step of a filter of zeros is 1.
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
    """Whole numbers for weights `[F, O, n]` in steps `[F, O, 1]`.

    The error of each weight moves the weights after it.
    """
    spread = np.linalg.cholesky(np.linalg.inv(covariance)).T  # upper triangle
    left = weight / step
    whole = np.empty(weight.shape)
    for i, row in enumerate(spread):
        whole[..., i] = np.clip(np.rint(left[..., i]), -limit, limit)
        error = (left[..., i] - whole[..., i]) / row[i]
        left[..., i + 1 :] -= error[..., None] * row[i + 1 :]
    return whole
