"""Steps of a forward pass that is another library's code: it cannot yield, only call what waits.

It runs on a thread of its own, which waits wherever the pass may be left; one of the two threads runs at a
time. To begin one costs about 0.1 ms, to leave it once 0.02: it is for work that takes longer.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

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
    resumed: SimpleQueue[int] = SimpleQueue()  # on so many cores; 0: abandoned
    stopped: SimpleQueue[bool] = SimpleQueue()  # whether the work is done
    result: Future[Value] = Future()
    inference = torch.is_inference_mode_enabled()
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    stream = torch.cuda.current_stream() if on_gpu else None

    def resume() -> None:
        cores = resumed.get()
        if not cores:
            raise _Abandoned
        torch.set_num_threads(cores)

    def leave() -> None:
        stopped.put(False)  # noqa: FBT003
        resume()

    def live() -> None:
        try:
            resume()
            with torch.cuda.stream(stream), torch.inference_mode(inference):
                result.set_result(work(leave))
        except BaseException as error:  # noqa: BLE001 - raised again by who drives
            result.set_exception(error)
        stopped.put(True)  # noqa: FBT003

    thread = threading.Thread(target=live, name="heed-forward", daemon=True)
    thread.start()
    try:
        while True:
            resumed.put(torch.get_num_threads())
            if stopped.get():
                break
            yield
    finally:
        resumed.put(0)
        thread.join()
    return result.result()
