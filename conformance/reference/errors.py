"""The one error a caller of the reference has to handle."""


class ModelNotExportableError(ValueError):
    """The model, or what was asked of it, cannot be exported with a static cache.

    Raised before any tracing, so nothing has been changed or spent. The message says which setting is wrong, what it
    is, and what to set instead.
    """
