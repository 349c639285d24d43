"""The `hf-speechrec` command. Thin: it reads arguments, calls the package, and prints."""

from . import train, evaluate, recognise, language_models, publish, demo  # noqa: F401, I001  their order is that of --help
from .common import app

__all__ = ["app"]
