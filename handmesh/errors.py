"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input: one line that says what was expected, what came and what to do.

    The command line prints it without a traceback and exits with code 2 (see `handmesh.cli`).
    """


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks; its class where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
