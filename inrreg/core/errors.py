"""Errors a user can act on: each message says what was wrong, where, and what to do."""


class RegistrationError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(RegistrationError, ValueError):
    """Bad input, found before any work starts."""


class FrameError(InputError):
    """Coordinates or grids that do not fit together, or a grid that is none."""


class TransformError(RegistrationError):
    """A transform that cannot be saved, loaded, refined or evaluated as asked."""


class InversionError(RegistrationError):
    """A transform could not be inverted to the asked tolerance."""


class OutputError(RegistrationError, OSError):
    """A result could not be written."""
