"""What a network's output means: conversions between noise (epsilon), velocity (v), clean sample and flow forms.

A noisy point is z_t = alpha_t z0 + sigma_t epsilon; for flow models alpha = 1 - sigma. All functions are elementwise;
alpha and sigma broadcast against z_t (usually [B, 1, 1, 1]) and everything should already be float32.

Source: `epsilon` DDPM (arXiv 2006.11239); `v_prediction` progressive distillation (arXiv 2202.00512),
v = alpha epsilon - sigma z0; `sample` predicts z0; `flow` rectified flow (arXiv 2209.03003), v = epsilon - z0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Parametrisation = Literal["epsilon", "v_prediction", "sample", "flow"]
PARAMETRISATIONS: tuple[Parametrisation, ...] = get_args(Parametrisation)


def add_noise(z0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the noisy point alpha z0 + sigma epsilon."""
    return alpha * z0 + sigma * epsilon


def output_to_epsilon(output: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor, kind: Parametrisation) -> Tensor:
    """Return the noise prediction of a network whose output is of `kind`. Limits: "sample" divides by sigma."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * z_t
    if kind == "sample":
        return (z_t - alpha * output) / sigma
    return z_t + alpha * output  # flow: alpha = 1 - sigma


def epsilon_to_output(epsilon: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor, kind: Parametrisation) -> Tensor:
    """Return the output of a network of `kind` whose noise prediction is `epsilon`; undoes `output_to_epsilon`.

    Limits: "v_prediction" and "flow" divide by alpha.
    """
    if kind == "epsilon":
        return epsilon
    if kind == "v_prediction":
        return (epsilon - sigma * z_t) / alpha
    if kind == "sample":
        return (z_t - sigma * epsilon) / alpha
    return (epsilon - z_t) / alpha


def epsilon_to_clean(epsilon: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean estimate (z_t - sigma epsilon) / alpha. Limits: ill-conditioned where alpha is near 0."""
    return (z_t - sigma * epsilon) / alpha


def training_target(z0: Tensor, epsilon: Tensor, alpha: Tensor, sigma: Tensor, kind: Parametrisation) -> Tensor:
    """Return what a network of `kind` should output at the point made of `z0` and `epsilon`."""
    if kind == "epsilon":
        return epsilon
    if kind == "v_prediction":
        return alpha * epsilon - sigma * z0
    if kind == "sample":
        return z0
    return epsilon - z0
