"""What makes a worker take one case at a time. Needs no torch: a worker that has no memory for it fails at a case."""

from distributed import Worker, WorkerPlugin

NAME = "crossmoda-grl-case"


class OneCaseAtATime(WorkerPlugin):
    """Makes a worker take one case at a time, whatever its threads, which are the network's then.

    A resource of which every worker has one would do the same, but a worker gets it after it has joined, and Dask does
    not look again for what was waiting: if the only worker ends, its successor would never be given a case.
    """

    name = NAME
    threads = 1

    def setup(self, worker: Worker) -> None:
        """Prepare a worker, also one that joins later."""
        # The allocator keeps what a case freed, and a worker above this fraction would wait for ever. The limit at
        # which the worker's nanny ends it stays.
        worker.memory_manager.memory_pause_fraction = False
        self.threads = worker.state.nthreads
        worker.state.nthreads = 1

    def teardown(self, worker: Worker) -> None:
        """Give a worker its threads back; the next run's plugin takes this one's place."""
        worker.state.nthreads = self.threads


def threads_of(worker: Worker) -> int:
    """Return how many threads a prepared worker was started with."""
    plugin = worker.plugins[NAME]
    assert isinstance(plugin, OneCaseAtATime)
    return plugin.threads
