"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """Says in one sentence what is wrong, where, and what to do. Tools print it and exit with status 2."""
