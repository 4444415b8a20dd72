"""The one exception a user is meant to read."""


class WfbenchError(Exception):
    """Something the user can mend; the message names it and says how."""
