"""What can go wrong below the wall.

ModelError
├── SpecError        a model folder or request describes something that cannot be built
├── UnknownModel     no such model, or no such version of it
├── TextError        text given to a model that cannot read it
├── TooLong          a sequence of more tokens than the model has positions
├── OutOfMemory      the device could not hold a batch; a smaller one may fit
└── DeviceFailed     the device is gone; nothing that comes after will work
"""


class ModelError(Exception):
    """Anything raised by `models` on purpose; the message is written for the caller."""


class SpecError(ModelError):
    """A model folder, or a request, describes something that cannot be built."""


class UnknownModel(ModelError):
    """No model, or no version of it, has this name."""


class TextError(ModelError):
    """Text was given to a model that cannot read it."""


class TooLong(ModelError):
    """A sequence has more tokens than the model has positions for."""


class OutOfMemory(ModelError):
    """The device could not hold this batch; a smaller one may fit."""


class DeviceFailed(ModelError):
    """The device is gone: nothing that comes after will work."""
