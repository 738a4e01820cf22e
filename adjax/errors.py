"""The error that a user can cause and mend: one line with the file or option, what is wrong, what would be right."""


class AdjaxError(ValueError):
    """Bad input of any kind; the command line prints it as one line, without a traceback."""
