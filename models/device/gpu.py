"""A CUDA device as the runtime uses it: streams to run batches in, and whether it lives.

Each slot has a pair of streams, made once: the allocator keeps a pool of memory for each stream, and cuBLAS a
workspace, so that streams without end would take memory without end.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from models.device.graphs import kept_bytes
from models.device.locked import locked_memory
from models.device.products import check_products, set_products
from models.errors import GONE, DeviceFailed, ModelError, OutOfMemory, SpecError, of_batch

STEPS_AHEAD = 2  # of a long batch, which the device has not come to yet
URGENT = -1  # a stream's priority: what waits in it goes before what waits in others


@dataclass(slots=True, eq=False)
class Streams:
    """Streams of one slot: a batch's, and a more urgent one for what goes between two steps of a long one.

    What is queued in a stream runs in order: in the same one, a short batch would wait for all of the long
    one that is queued already.
    """

    batch: Any
    urgent: Any
    events: deque[Any] = field(default_factory=deque)


class Gpu:
    """The device, and streams for so many `slots`. `cuda` is torch's module of that name."""

    def __init__(self, device: torch.device, *, slots: int, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        self.pairs = [
            Streams(cuda.Stream(device), cuda.Stream(device, priority=URGENT)) for _ in range(slots)
        ]
        self._free = list(self.pairs)  # the one that was used last is the last: its memory is at hand
        self._wanted: list[Streams] = []  # by threads that wait for one
        self._changed = threading.Condition()
        self._held: dict[int, Streams] = {}  # by the thread that runs a long batch in it
        self._warm = False

    @contextmanager
    def streams(self) -> Iterator[Streams]:
        """Lend a pair to the calling thread for all steps of a batch; another thread may end it."""
        thread, streams = threading.get_ident(), self._taken(None)
        self._held[thread] = streams
        try:
            yield streams
        finally:
            del self._held[thread]
            streams.events.clear()
            self._give_back(streams)

    @contextmanager
    def lent(self, streams: Streams) -> Iterator[None]:
        """Lend one pair to the calling thread, which nobody else is lent before."""
        self._taken(streams)
        try:
            yield
        finally:
            self._give_back(streams)

    def _taken(self, wanted: Streams | None = None) -> Streams:
        """Take the pair that is wanted once it is free, or any that nobody waits for."""
        with self._changed:
            if wanted is None:
                self._changed.wait_for(lambda: any(one not in self._wanted for one in self._free))
                wanted = [one for one in self._free if one not in self._wanted][-1]
            else:
                self._wanted.append(wanted)
                self._changed.wait_for(lambda: wanted in self._free)
                self._wanted.remove(wanted)
            self._free.remove(wanted)
            return wanted

    def _give_back(self, streams: Streams) -> None:
        with self._changed:
            self._free.append(streams)
            self._changed.notify_all()

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """Lend a stream for one batch: the urgent one of the pair in which the thread has a long batch."""
        held = self._held.get(threading.get_ident())
        if held is not None:
            yield held.urgent
            return
        with self.streams() as streams:
            yield streams.batch

    def entered(self, stream: Any) -> AbstractContextManager[object]:
        """Let what the calling thread launches run in a stream."""
        entered: AbstractContextManager[object] = self.cuda.stream(stream)
        return entered

    def current(self) -> int:
        """Return the number of the stream that the calling thread launches in."""
        number: int = self.cuda.current_stream(self.device).cuda_stream
        return number

    def pace(self, streams: Streams) -> None:
        """Wait, after a step of a long batch, until the device is no more than two steps behind.

        Else seconds of work would be queued, and a sign of life say nothing of the device.
        """
        event = streams.events.popleft() if len(streams.events) > STEPS_AHEAD else self.cuda.Event()
        event.record(streams.batch)
        streams.events.append(event)
        if len(streams.events) > STEPS_AHEAD:
            streams.events[0].synchronize()

    def warm(self, work: Callable[[], None]) -> None:
        """Run `work` once in every stream, on a thread a slot: they leave a handle of cuBLAS for each.

        Later, while they serve, once on the calling thread: only what is new is loaded then.
        """
        if self._warm:
            with torch.inference_mode():
                work()
            return
        self._warm = True
        troubles: list[BaseException] = []
        ended, done = threading.Semaphore(0), threading.Event()

        def run() -> None:
            with self.streams() as streams, torch.inference_mode():
                try:
                    for stream in (streams.batch, streams.urgent):
                        with self.cuda.stream(stream):
                            work()
                        stream.synchronize()
                except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                    troubles.append(error)
                ended.release()
                done.wait()  # whoever ends leaves his streams and his handle to the next

        threads = [threading.Thread(target=run, name="heed-warm", daemon=True) for _ in self.pairs]
        for one in threads:
            one.start()
        for _ in threads:
            ended.acquire()
        done.set()
        for one in threads:
            one.join()
        if troubles:
            raise troubles[0]

    def confirmed(self, trouble: ModelError) -> ModelError | None:
        """Return what an error of a batch means, as `of_batch` has it; None where it is the batch's own.

        Of CUDA's errors some are sticky: nothing works any more in this process. Others were refused and are
        over. Which it was only the next call tells. Memory that the allocator holds free goes back.
        """
        if isinstance(trouble, OutOfMemory):
            return trouble if _answers(self.cuda.empty_cache) and self.lives() else DeviceFailed(GONE)
        return None if isinstance(trouble, DeviceFailed) and self.lives() else trouble

    def lives(self) -> bool:
        """Whether the device still computes."""
        return computes(self.device)

    def memory(self) -> dict[str, int]:
        """Return bytes of tensors, of all that is held for them, of that by graphs, and locked for copies."""
        return {
            "graphs": kept_bytes(),
            "allocated": self.cuda.memory_allocated(self.device),
            "reserved": self.cuda.memory_reserved(self.device),
            "locked": locked_memory().nbytes,
        }


def begin(device: torch.device, dtypes: Collection[str], *, slots: int) -> Gpu | None:
    """Return a GPU with its products set and tried, None for another device; raise SpecError."""
    if device.type != "cuda":
        return None
    set_products(dtypes)
    check_products(dtypes, device)
    return Gpu(device, slots=slots)


def computes(device: torch.device) -> bool:
    """Whether a device still computes; one without memory does."""
    return _answers(lambda: torch.ones(1, device=device).add_(1).item())


def ends_trial(error: Exception, device: torch.device) -> bool:
    """Whether an error of a kernel that was tried is the device's, to be raised, and not the kernel's own."""
    meaning = of_batch(error)
    return isinstance(meaning, OutOfMemory) or (isinstance(meaning, DeviceFailed) and not computes(device))


def _answers(work: Callable[[], object]) -> bool:
    """Whether the device does something, or says that it has no memory for it."""
    try:
        work()
    except RuntimeError as error:
        return isinstance(of_batch(error), OutOfMemory)
    return True


def pick(device: str) -> torch.device:
    """Return the device by its name, `auto` for a GPU where there is one; raise SpecError without it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"device {device} was asked for, but torch sees no GPU; use cpu or auto")
    picked = torch.device(device)
    if picked.type == "cuda" and (picked.index or 0) >= (count := torch.cuda.device_count()):
        raise SpecError(
            f"device {device} was asked for, but torch sees {count} of them, cuda:0 to cuda:{count - 1}"
        )
    return picked
