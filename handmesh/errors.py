"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input: one line that says what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2 (see `handmesh.cli`).
    """
