"""The exceptions that the package raises on bad input, and its warnings.

Each message is one or two sentences for a person: what is wrong, in which file and tensor, what was
expected, and what to do about it.
"""


class Error(ValueError):
    """Base of everything that the package raises on bad input."""


class CheckpointError(Error):
    """A checkpoint cannot be found, opened or trusted, or does not hold what its configuration promises."""


class Cancelled(Error):  # noqa: N818 (not an error of the caller's)
    """A run was cancelled from another thread before it was done."""


class UnusedWeights(UserWarning):
    """A checkpoint holds weights that the model does not use."""


class UnusedSettings(UserWarning):
    """A checkpoint's generation_config.json asks for something that this package does not implement."""


class UnsupportedArchitecture(Error):  # noqa: N818 (the name says what is wrong)
    """A sound checkpoint asks for a model, module or option that this package does not implement."""
