"""The errors that a caller of the reference has to handle."""


class ModelNotExportableError(ValueError):
    """The model cannot be exported with a static cache as it is configured, or the arguments do not fit it.

    Raised before any tracing. The message has the setting that is wrong, its value, and the value to set instead.

    Attributes:
        code: The kind of mistake, such as `no-static-cache`. It stays when the message is reworded.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


class PositionsEndError(ModelNotExportableError):
    """The cache is longer than the model has positions.

    Attributes:
        longest: The longest cache that the model can have, in tokens.
    """

    def __init__(self, model: str, max_cache_len: int, longest: int) -> None:
        super().__init__(
            "cache-too-long",
            f"max_cache_len is {max_cache_len}; {model} has {longest} positions, and its table of them ends there: set "
            f"max_cache_len to at most {longest}",
        )
        self.longest = longest


class AttentionDoesNotFitError(ModelNotExportableError):
    """The attention that was asked for does not compute what the model's own does, or is not installed."""

    def __init__(self, message: str) -> None:
        super().__init__("custom-attention", message)
