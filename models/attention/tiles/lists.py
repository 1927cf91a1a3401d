"""The largest weights of each row: a list in registers, which a key enters that is large enough.

A list has `top` lanes of `TOP_PADDED`; a lane that is not used holds +inf, and so is never the least. Of
scores that are alike the first key stays. Nothing is sorted before the end.
"""

import triton
import triton.language as tl

BEYOND = tl.constexpr(2147483647)


@triton.jit
def empty_list(top, ROWS: tl.constexpr, TOP_PADDED: tl.constexpr):
    """Return scores and keys of lists that nothing has entered."""
    lane = tl.arange(0, TOP_PADDED)
    least = tl.where(lane < top, float("-inf"), float("inf"))
    most = tl.zeros([ROWS, TOP_PADDED], tl.float32) + least[None, :]
    return most, tl.zeros([ROWS, TOP_PADDED], tl.int32) - 1


@triton.jit
def entered(most, most_keys, s, key, TOP_PADDED: tl.constexpr):
    """Return the lists with what of scores [rows, keys] is larger than the least of them in its place."""
    lane = tl.arange(0, TOP_PADDED)
    left, best, least = s, tl.max(s, 1), tl.min(most, 1)
    while tl.max((best > least).to(tl.int32), 0) > 0:
        found = tl.min(tl.where(left == best[:, None], key[None, :], BEYOND), 1)
        is_least = most == least[:, None]
        latest = tl.max(tl.where(is_least, most_keys, -2), 1)
        of_latest = is_least & (most_keys == latest[:, None])
        first_lane = tl.min(tl.where(of_latest, lane[None, :], TOP_PADDED), 1)
        put = (lane[None, :] == first_lane[:, None]) & (best > least)[:, None]
        most = tl.where(put, best[:, None], most)
        most_keys = tl.where(put, found[:, None], most_keys)
        left = tl.where(key[None, :] == found[:, None], float("-inf"), left)
        best, least = tl.max(left, 1), tl.min(most, 1)
    return most, most_keys


@triton.jit
def write_list(
    KEYS, WEIGHTS, REST, most, most_keys, lse, mass, blind, keys, at, there, top,
    ROWS: tl.constexpr, TOP_PADDED: tl.constexpr,
):  # fmt: skip
    """Write each row's list, the largest first, and of its mass what is in none; others make up the number.

    `at`: where a row's list stands, in lists, among the sequence's, which has at least `top` keys.
    """
    lane = tl.arange(0, TOP_PADDED)
    listed = (lane < top)[None, :] & there[:, None]
    missing = (most == float("-inf")) & listed
    if tl.max(tl.max(missing.to(tl.int32), 1), 0) > 0:  # fewer in sight: the first of the others
        for other in range(2 * top):
            used = tl.max((listed & (most_keys == other)).to(tl.int32), 1) > 0
            first_lane = tl.min(tl.where(missing & (most_keys < 0), lane[None, :], TOP_PADDED), 1)
            put = (lane[None, :] == first_lane[:, None]) & (~used)[:, None] & (other < keys)
            most_keys = tl.where(put, other, most_keys)
    weight = tl.where(listed & ~missing & ~blind[:, None], tl.exp(most - lse[:, None]), 0.0)
    rest = mass - tl.sum(weight, 1)
    tl.store(REST + at, tl.where(rest < 0.0, 0.0, rest).to(REST.dtype.element_ty), mask=there)
    taken = tl.zeros([ROWS, TOP_PADDED], tl.int32) > 0
    for rank in range(top):
        free = listed & ~taken
        best = tl.max(tl.where(free, most, float("-inf")), 1)
        first = tl.min(tl.where(free & (most == best[:, None]), most_keys, BEYOND), 1)
        this = free & (most == best[:, None]) & (most_keys == first[:, None])
        largest = tl.sum(tl.where(this, weight, 0.0), 1)
        tl.store(KEYS + at * top + rank, first, mask=there)
        tl.store(WEIGHTS + at * top + rank, largest.to(WEIGHTS.dtype.element_ty), mask=there)
        taken = taken | this
