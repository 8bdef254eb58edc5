"""What makes a worker take one case at a time. Needs no torch: a worker that has no memory for it fails at a case."""

from distributed import Worker, WorkerPlugin

# Of which every worker has one, and every case takes one.
CASE = "crossmoda-grl-case"


class OneCaseAtATime(WorkerPlugin):
    """Makes a worker take one case at a time, whatever its threads, which are the network's then."""

    name = CASE

    async def setup(self, worker: Worker) -> None:
        """Prepare a worker, also one that joins later."""
        # The allocator keeps what a case freed, and a worker above this fraction would wait for ever. The limit at
        # which the worker's nanny ends it stays.
        worker.memory_manager.memory_pause_fraction = False
        if CASE not in worker.state.total_resources:
            await worker.set_resources(**{CASE: 1})
