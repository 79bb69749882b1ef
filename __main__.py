"""`python -m nbench`."""

from nbench.cli import main

main()
