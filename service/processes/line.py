"""A line between an HTTP process and the device process: one batch at a time, its messages and its arrays.

A process has more than one, so that a batch is packed or read while another is computed.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from service.processes.channel import Channel
from service.processes.parcel import Arena

__all__ = ["LINES", "Line"]

LINES = 2  # of each HTTP process
DESCRIPTORS = 3  # of each line


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One end. The HTTP process writes `inputs`, the device process `results`."""

    batches: Channel
    inputs: Arena
    results: Arena

    @classmethod
    def pair(cls) -> "tuple[Line, tuple[int, ...]]":
        """Return one end, and the descriptors of the other, for `at`; the first is to be closed here."""
        ours, theirs = socket.socketpair()
        inputs, results = (os.memfd_create(name) for name in ("heed-inputs", "heed-results"))
        return cls(Channel(ours), Arena(inputs), Arena(results)), (theirs.detach(), inputs, results)

    @classmethod
    def at(cls, descriptors: Sequence[int]) -> "list[Line]":
        """Return the lines whose descriptors these are, three each."""
        found = []
        for at in range(0, len(descriptors), DESCRIPTORS):
            batches, inputs, results = descriptors[at : at + DESCRIPTORS]
            found.append(cls(Channel(socket.socket(fileno=batches)), Arena(inputs), Arena(results)))
        return found
