"""Runs of submissions for tests, and an observer that records them."""

from evaluation.runner.record import CONTAINER_LABEL, Settings
from evaluation.runner.run import run_submission

BASE = "python:3.11-slim-bookworm"
MEMORY = 128 * 2**20


class Recorder:
    def __init__(self):
        self.lines, self.done, self.failures = [], [], []

    def begin(self, total):
        self.total = total

    def log(self, line):
        self.lines.append(line)

    def case_done(self, number, total, case, seconds):
        self.done.append((number, total, case))

    def failed(self, message):
        self.failures.append(message)


def run(image, folders, *, per_case=False, **settings):
    watcher = Recorder()
    chosen = {"memory_bytes": MEMORY, "timeout_s": 60.0} | settings
    record = run_submission(Settings(image, **chosen), *folders, per_case=per_case, observer=watcher)
    return record, watcher


def left_on(engine, image):
    """Everything that a run of an image has left on the engine."""
    label = {"filters": {"label": f"{CONTAINER_LABEL}={image}"}}
    return [*engine.containers.list(all=True, **label), *engine.volumes.list(**label), *engine.images.list(**label)]


def containers_of(engine, image):
    return engine.containers.list(all=True, filters={"label": f"{CONTAINER_LABEL}={image}"})


def command(image, folders, *more):
    return ["evaluate", "run", image, "--input", str(folders[0]), "--output", str(folders[1]), *map(str, more)]
