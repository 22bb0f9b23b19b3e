"""The one exception that the commands show to the user instead of a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """A mistake in the user's input: what is wrong, in which file, and what to do about it.

    The commands print it as one line and exit with status 2. File names may hold anything, so line breaks and other
    control characters are escaped here, once, and undecodable bytes are replaced: the message always prints, and
    always on one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(message: str) -> str:
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
