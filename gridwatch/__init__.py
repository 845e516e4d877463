"""The program: configuration, engine, daemon, command line."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("gridwatch")
