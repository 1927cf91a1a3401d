"""A tokenizer tried before it is held: in a process of its own, under limits of time and memory.

Native code cannot be stopped, so what may never come back, or takes all memory, must not begin here. Only
what its file does not show to be quick is tried; what passes once may be held in any process. Run as a
script, this module is that process, and needs nothing of Heed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

MI = 1 << 20
LIMITS = {"cpu_seconds": 20, "wall_seconds": 60.0, "sample_seconds": 2.0, "memory_bytes": 1024 * MI}
MEMORY_A_BYTE = 48  # of the file: a vocabulary as tables
SAMPLE_BYTES = 1 << 15
RUNS = (40, 3000)  # characters, before a sample of full length: what never ends should be found early
PATTERN_LETTERS = 12
OFTEN = ("a", "A", "0", " ", "\n", "!", "é", "漢", "\u0301", "\u200b", "a ", "ab1! ", "She sat on the bank. ")


def try_out(tokenizer: bytes, patterns: Sequence[str], **limits: float) -> str:
    """Return what is wrong with a tokenizer, "" for nothing: its JSON is read and texts are encoded.

    The texts are runs of what text often is made of, and of the letters of its `patterns`. `limits` are those
    of LIMITS that are to be others.
    """
    bounds = {**LIMITS, **limits}
    bounds["memory_bytes"] += MEMORY_A_BYTE * len(tokenizer)
    command = [sys.executable, "-P", __file__, json.dumps({**bounds, "letters": _letters(patterns)})]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            input=tokenizer,
            capture_output=True,
            timeout=bounds["wall_seconds"],
            env=environment,
            check=False,
        )
    except OSError as problem:
        return f"it could not be tried: {problem.strerror}"
    except subprocess.TimeoutExpired:
        return f"it was tried, and took over {bounds['wall_seconds']:g} s"
    said = done.stdout.decode(errors="replace").splitlines()
    if done.returncode == 0 and said and said[-1] == "tried":
        return ""
    if done.returncode == -signal.SIGVTALRM and said:
        return f"it was tried, and took over {bounds['sample_seconds']:g} s of the processor for {said[-1]}"
    if said and said[-1].startswith("wrong: "):
        return said[-1].removeprefix("wrong: ")[:200]
    used = f"{bounds['cpu_seconds']:g} s of the processor, or {bounds['memory_bytes'] / MI:.0f} MiB"
    return f"it was tried, and took over {used}"


def _letters(patterns: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(one for pattern in patterns for one in pattern if one.isalnum()))[
        :PATTERN_LETTERS
    ]


def _samples(letters: Sequence[str]) -> list[str]:
    """Return texts of growing length, each of one thing again and again.

    Each run has something else behind it: a search for what is nowhere in a text is often given up at once.
    """
    words = (*letters, *OFTEN)
    end = f"!{''.join(letters)}\n."
    runs = [word * (1 + size // len(word)) + end for size in RUNS for word in words]
    return runs + [word * (1 + SAMPLE_BYTES // len(word.encode())) + end for word in words]


def _main(bounds: dict[str, float], letters: Sequence[str]) -> str:
    """Return what is wrong with the tokenizer on standard input; the kernel ends what goes too far."""
    import resource  # there is none on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu, memory = int(bounds["cpu_seconds"]), int(bounds["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    with suppress(ValueError, OSError):  # macOS has none
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    from tokenizers import Tokenizer  # within the limits, too

    try:
        tokenizer = Tokenizer.from_str(sys.stdin.buffer.read().decode())
    except Exception as problem:  # noqa: BLE001  the package raises nothing narrower
        return f"it cannot be read: {problem}"
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for sample in _samples(letters):
        sys.stdout.write(f"{len(sample.encode())} bytes of {sample[0]!a} and the like\n")
        sys.stdout.flush()
        signal.setitimer(
            signal.ITIMER_VIRTUAL, bounds["sample_seconds"]
        )  # ends the process, whatever it does
        with suppress(Exception):  # a text that it does not read is that text's error
            tokenizer.encode(sample)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return ""


def _run() -> None:
    told = json.loads(sys.argv[1])
    try:
        wrong = _main(told, told["letters"])
    except BaseException as problem:  # noqa: BLE001  a panic is no Exception
        wrong = f"it was tried, and gave up: {type(problem).__name__}: {problem}"
    sys.stdout.write(f"wrong: {' '.join(wrong.split())}\n" if wrong else "tried\n")


if __name__ == "__main__":
    _run()
