"""`python -m gateway.cli`."""

from gateway.cli.commands import main

main()
