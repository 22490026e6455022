"""The one error that a caller of the reference has to handle."""


class ModelNotExportableError(ValueError):
    """The model cannot be exported with a static cache as it is configured, or the arguments do not fit it.

    Raised before any tracing. The message has the setting that is wrong, its value, and the value to set instead.
    """
