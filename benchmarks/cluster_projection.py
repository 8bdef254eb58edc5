"""The table of docs/cluster.md: how long a cohort takes on some workers, projected from one measured case.

    python benchmarks/cluster_projection.py --seconds 24

A projection, not a measurement: every worker takes one case after the other, as long as the one that was measured,
and the shared folder gives each scan as fast as it is wanted. The last column says how fast that must be.
"""

import math

import click

WORKERS = (1, 2, 5, 10, 20, 50, 100)


def hours(cases: int, workers: int, seconds: float, start_s: float) -> float:
    """Return how long a cohort takes: the workers start at the same time and are never idle before the last round."""
    return (start_s + math.ceil(cases / workers) * seconds) / 3600


@click.command(context_settings={"show_default": True})
@click.option(
    "--seconds", type=float, required=True, help="Of a whole case on one worker, reading and writing included."
)
@click.option("--cases", type=int, default=10_000)
@click.option(
    "--start", type=float, default=10.0, help="Seconds until a worker has imported torch and read the weights."
)
@click.option("--scan-mb", type=float, default=33.0, help="Size of a scan's file.")
def main(seconds: float, cases: int, start: float, scan_mb: float) -> None:
    """Print the table in Markdown."""
    click.echo("| workers | hours | cases an hour | the folder gives, MB/s |")
    click.echo("|---|---|---|---|")
    for workers in WORKERS:
        time = hours(cases, workers, seconds, start)
        click.echo(f"| {workers} | {time:.1f} | {cases / time:.0f} | {workers * scan_mb / seconds:.1f} |")


if __name__ == "__main__":
    main()
