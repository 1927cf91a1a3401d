"""Runs a function of many small operators in one go, outside the interpreter and without its lock.

Every operator called from Python gives the lock back and takes it again, and a lane of the device that has
to wait for it each time stands still while the event loop reads or writes a megabyte of JSON. As TorchScript
the same function takes the lock once. Where that is not to be had, the function runs as it is written.
"""

import logging
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["scripted"]

Given = ParamSpec("Given")
Made = TypeVar("Made")

log = logging.getLogger(__name__)


def scripted(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Return the function as TorchScript, or itself where torch cannot make it so (Python 3.14 and later)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of it that nothing is added to it any more
        try:
            compiled: Callable[Given, Made] = torch.jit.script(function)
        except Exception as error:  # noqa: BLE001  torch's compiler has no error of its own above them all
            log.info("%s runs operator by operator: %s", function.__name__, str(error)[:200])
            return function
    return compiled
