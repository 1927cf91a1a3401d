"""Why a model folder cannot be served, in words that can be shown: for exceptions that nobody foresaw."""

__all__ = ["is_panic", "printable", "reason_of"]

LONGEST = 200  # characters of somebody else's message


def is_panic(error: BaseException) -> bool:
    """Whether native code gave up (tokenizers, safetensors): pyo3 raises it beside Exception, not under."""
    return type(error).__name__ == "PanicException"


def reason_of(name: str, error: BaseException) -> str:
    """Return why a model cannot be loaded: the type of an exception and the first line of its message."""
    said = next(iter(str(error).splitlines()), "")[:LONGEST]
    return printable(f"{name} cannot be loaded: {type(error).__name__}{said and ': '}{said}")


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8: a file's name need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
