"""Steps of a forward pass that is another library's code: it cannot yield, only call what waits.

It runs on a thread of its own, which waits wherever the pass may be left; one of the two threads runs at a
time. To begin one costs about 0.1 ms, to leave it once 0.02: it is for work that takes longer.
"""

import threading
from collections.abc import Callable

import torch

from models.device.steps import Steps, Value

__all__ = ["foreign_steps"]


class _Abandoned(BaseException):
    """Ends work from where it was left: nobody will go on with it."""


def foreign_steps(work: Callable[[Callable[[], None]], Value]) -> Steps[Value]:
    """Yield whenever `work` calls what it is given; return what it returns, raise what it raises.

    It computes as the thread does that drives the steps: in inference mode or not, in the same stream, on as
    many cores as are set there at each step.
    """
    go_on, stopped = threading.Semaphore(0), threading.Semaphore(0)
    inference, stream = torch.is_inference_mode_enabled(), None
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream()
    cores = torch.get_num_threads()
    abandoned = done = False
    results: list[Value] = []
    errors: list[BaseException] = []

    def leave() -> None:
        stopped.release()
        go_on.acquire()
        if abandoned:
            raise _Abandoned
        torch.set_num_threads(cores)

    def live() -> None:
        nonlocal done
        torch.set_num_threads(cores)
        try:
            with torch.cuda.stream(stream), torch.inference_mode(inference):
                results.append(work(leave))
        except BaseException as error:  # noqa: BLE001 - raised again by who drives
            errors.append(error)
        done = True
        stopped.release()

    thread = threading.Thread(target=live, name="heed-forward", daemon=True)
    thread.start()
    try:
        stopped.acquire()
        while not done:
            yield
            cores = torch.get_num_threads()
            go_on.release()
            stopped.acquire()
    finally:
        if not done:
            abandoned = True
            go_on.release()
        thread.join()
    if errors:
        raise errors.pop()
    return results.pop()
