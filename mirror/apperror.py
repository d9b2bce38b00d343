"""What the parts of the composition root raise when the mirror cannot start."""


class StartError(Exception):
    """The mirror cannot start; the text says why and what to do."""
