"""AdvrBD: a clean model and a list of poisoned samples, from a poisoned dataset alone."""

__version__ = "0.1.0"
