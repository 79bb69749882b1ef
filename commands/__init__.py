"""The commands, by topic: each module is a Typer app that `cli.py` puts together; they parse, call and print."""
