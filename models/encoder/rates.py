"""How fast each pair of numbers turns with the position, for plain and for stretched rotary positions.

All in float32 and in transformers' order (`modeling_rope_utils.py`), so that angles at far positions are the
same numbers. R rates.
"""

import math

import torch
from torch import Tensor

from models.mechanism import RotarySpec, ScalingSpec


def rotary_rates(at: RotarySpec, turned: int, *, longest: int = 1) -> Tensor:
    """Return the rates of `turned` numbers of a head, float32 [R]; `longest`: the sequence's positions."""
    exponent = torch.arange(0, turned, 2, dtype=torch.float32) / turned
    scaling = at.scaling
    if scaling is None:
        return 1.0 / at.theta**exponent
    if scaling.kind == "linear":
        return (1.0 / at.theta**exponent) / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(1.0 / at.theta**exponent, scaling)
    if scaling.kind == "yarn":
        return _yarn(at.theta, at.theta**exponent, scaling)
    assert scaling.original_positions is not None
    if scaling.kind == "longrope":
        longer = longest > scaling.original_positions
        divisors = torch.tensor(scaling.long_factors if longer else scaling.short_factors)
        return 1.0 / (divisors * at.theta**exponent)
    if longest <= scaling.original_positions:
        return 1.0 / at.theta**exponent
    positions = torch.tensor(longest)
    stretch = (scaling.factor * positions / scaling.original_positions) - (scaling.factor - 1)
    theta = at.theta * stretch ** (turned / (turned - 2))
    return 1.0 / theta**exponent


def _llama3(rate_R: Tensor, scaling: ScalingSpec) -> Tensor:
    """Divide slow rates by the factor, leave fast ones, and go from one to the other in between."""
    assert scaling.original_positions is not None
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    length_R = 2 * math.pi / rate_R  # of a whole turn
    slow_R = length_R > scaling.original_positions / low
    between_R = ~(length_R < scaling.original_positions / high) & ~slow_R
    smooth_R = (scaling.original_positions / length_R - low) / (high - low)
    blended_R = (1 - smooth_R) * rate_R / scaling.factor + smooth_R * rate_R
    return torch.where(between_R, blended_R, torch.where(slow_R, rate_R / scaling.factor, rate_R))


def _yarn(theta: float, slowness_R: Tensor, scaling: ScalingSpec) -> Tensor:
    """Interpolate slow rates, leave fast ones, with a ramp in between (Peng et al. 2023, section 3.2)."""
    count = slowness_R.shape[0]

    def rate_that_turns(times: float) -> float:
        assert scaling.original_positions is not None
        turns = math.log(scaling.original_positions / (times * 2 * math.pi))
        return (2 * count * turns) / (2 * math.log(theta))

    first, last = rate_that_turns(scaling.beta_fast), rate_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * count - 1)
    if first == last:
        last += 0.001  # as in the authors' code
    ramp_R = ((torch.arange(count, dtype=torch.float32) - first) / (last - first)).clamp(0, 1)
    kept_R = 1 - ramp_R
    return 1.0 / (scaling.factor * slowness_R) * (1 - kept_R) + 1.0 / slowness_R * kept_R
