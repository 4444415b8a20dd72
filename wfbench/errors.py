"""What can go wrong, by whose doing: the user's, the method's, or against the rules."""


class WfbenchError(Exception):
    """Something the user can mend; the message names it and says how."""


class BrokenRule(Exception):
    """A method or the harness broke a rule of the benchmark; the run stops being a result."""


class CaseFailed(Exception):
    """The case has no result; the message is the record's reason."""
