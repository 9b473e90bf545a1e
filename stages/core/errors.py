"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake in what the user gave: shown as one line (what, where, the remedy), exit code 1."""
