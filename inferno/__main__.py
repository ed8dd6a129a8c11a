"""`python -m inferno` is the command."""

from inferno.cli.main import program

program()
