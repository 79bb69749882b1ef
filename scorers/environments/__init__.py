"""Scorers in environments of their own: another Python, a script that uv runs, a server, and how they are made."""
