"""The one exception that is the user's to mend."""


class NbenchError(Exception):
    """A problem that the user can mend. The message is one line: what, why, and what to do about it."""
