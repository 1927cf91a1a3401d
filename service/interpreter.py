"""How threads share the interpreter and the cores: what `heed serve` sets once, before the models.

Beside the request line; docs/lab/side-by-side.md has what each was measured to change.
"""

import contextlib
import gc
import os
import sys
import threading

SWITCH_SECONDS = 0.0001  # Python's own is 5 ms: a device slot would wait as long to begin its next operator
NICE = 5

# Threads that share a product wait for each other some ten times a layer. Asleep, they take 60 µs each time
# to wake; turning on the spot for good, they keep the cores from whoever serves. So they turn for about
# 0.1 ms: the count is of GNU's OpenMP, which torch brings along; the milliseconds are of LLVM's.
WAITING = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "4000", "KMP_BLOCKTIME": "1"}


def calm_interpreter() -> None:
    """Keep the garbage collector off what was imported, and let threads take turns more often.

    What is imported by now, torch above all, is never garbage: each full collection would walk through its
    half a million objects with every thread standing still. Models come later, and are looked at.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)


def wait_briefly() -> None:
    """Say how torch's threads wait for each other, unless the environment does; before torch is imported."""
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)


def compute_with(instructions: str) -> None:
    """Say which set of instructions compiled code uses; before any model is loaded."""
    os.environ["HEED_INSTRUCTIONS"] = instructions


def tokenize_alone() -> None:
    """Have each text tokenized on the thread that asks, unless the environment says otherwise.

    Requests are shared out over threads already; threads of the `tokenizers` package would only be more.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def step_back() -> None:
    """Let the calling thread compute when those who answer callers leave the core to it.

    They need it seldom and briefly, and everybody waits for them. Only Linux has a priority for each thread.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
