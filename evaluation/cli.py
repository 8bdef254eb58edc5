"""`crossmoda-grl evaluate`: the organiser's commands. Results go to stdout, progress and notes to stderr.

Each command imports its room in its handler, so that one command's missing package does not stop the others.
"""

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def evaluate() -> None:
    """Score, rank and report submissions, and run their images."""
