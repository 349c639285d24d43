"""`python -m hf_speechrec` is the `hf-speechrec` command."""

from .cli import app

app(prog_name="hf-speechrec")
