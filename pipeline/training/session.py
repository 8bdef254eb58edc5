"""What the command `train` does: from folders of scans to a run for each structure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console

from challenge.contract import STRUCTURES, Structure
from challenge.layouts import LAYOUTS
from challenge.quantities import counted
from pipeline.data.cache import cached_volumes
from pipeline.data.dataset import TrainingData, find_training_data
from pipeline.data.sampling import TrainingVolume
from pipeline.runtime.allocator import keep_large_blocks
from pipeline.runtime.devices import pick_device
from pipeline.runtime.distributed import joined_ranks
from pipeline.training.cochleas import cochlea_factor
from pipeline.training.display import ProgressDisplay
from pipeline.training.execution import COMPILER, Execution, pick_precision
from pipeline.training.listeners import Listener
from pipeline.training.named_recipes import chosen_recipes
from pipeline.training.options import ALL, RunOptions
from pipeline.training.phases import PHASES
from pipeline.training.run import check_run, train_run
from pipeline.training.settings import RunPlan


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """The options of `train`, under the names of the command's parameters; `all` is every structure or phase."""

    precision: str
    channels_last: bool
    compiled: bool
    workers: int
    tensorboard: bool


def train_structures(options: TrainOptions, console: Console) -> Iterator[Path]:
    """Train what the options ask for, one structure after another; yield the summary of each one's run.

    What is found and what departs from the paper is printed first, and all mistakes are found before a scan is read.

    Raises:
        DataError, ConfigError, DeviceError, CaseError, ValueError: the data or an option cannot be used.
        RunError, FloatingPointError, Interrupted, OSError: as `pipeline.training.run.train_run`.
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """
    if options.tensorboard:
        import_module("pipeline.training.tensorboard")  # a missing package is reported now, not hours later
    keep_large_blocks()
    with joined_ranks(pick_device(options.device)) as (ranks, device):
        console.quiet = not ranks.is_first
        precision = pick_precision(options.precision, device)
        compiler = COMPILER if options.compiled else ""
        execution = Execution(precision, options.channels_last, compiler, options.workers, ranks)
        plans = plan_runs(options)
        console.print(f"{options.data}, on {device}, {execution}\n{plans[0].data}", markup=False)
        console.print(departures_line(plans), markup=False)
        for number, plan in enumerate(plans):
            planned = [before.structure for before in plans[:number]]
            check_run(plan, options.runs / plan.structure.key, execution, planned=planned)
        for plan in plans:
            volumes = _preprocessed(plan.data, plan.structure, options.cache or options.runs / "cache", console)
            folder = options.runs / plan.structure.key
            with _listeners(options, console, writes=ranks.is_first) as listeners:
                summary = train_run(plan, volumes, folder, device=device, execution=execution, listeners=listeners)
            if ranks.is_first:
                yield summary


def plan_runs(options: RunOptions) -> list[RunPlan]:
    """Return the run of each structure that the options ask for: phases, recipes, data. VS is last if it needs both.

    Raises:
        DataError, ConfigError: the data or the configuration cannot be used.
    """
    structures = [s for s in STRUCTURES if options.structure in (ALL, s.key)]
    phases = None if options.phase == ALL else [PHASES[options.phase]]
    recipes = {
        s: chosen_recipes(options.recipe, s, phases=phases, config=options.config, epochs=options.epochs)
        for s in structures
    }
    data = find_training_data(
        options.data,
        split_file=options.split_file,
        validation_cases=options.validation_cases,
        layout=LAYOUTS[options.layout],
        with_target=any(phase.needs_target for chosen in recipes.values() for phase in chosen),
    )
    plans = [RunPlan(s, recipes[s], options.recipe, data, options.seed) for s in structures]
    return sorted(plans, key=lambda plan: any(cochlea_factor(r, plan.structure) > 0 for r in plan.recipes.values()))


def departures_line(plans: Sequence[RunPlan]) -> str:
    """Say in one line how many settings of each phase depart from the paper, and where they are listed."""
    counts = {
        f"{plan.structure.title} {phase.key}": len(plan.departures(phase)) for plan in plans for phase in plan.phases
    }
    total = sum(counts.values())
    if not total:
        return "no departures from the paper"
    listed = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{counted(total, 'departure')} from the paper: {listed}; listed in each settings.json and in summary.md"


def _preprocessed(
    data: TrainingData, structure: Structure, cache: Path, console: Console
) -> Mapping[str, Sequence[TrainingVolume]]:
    return {
        part: cached_volumes(cache, cases, structure, report=_CaseCounter(part, len(cases), console))
        for part, cases in data.parts.items()
    }


@contextmanager
def _listeners(options: TrainOptions, console: Console, *, writes: bool) -> Iterator[list[Listener]]:
    """Yield what follows a run: the progress on the console, and TensorBoard's events where asked for."""
    with ExitStack() as opened:
        listeners: list[Listener] = [opened.enter_context(ProgressDisplay(console))]
        if options.tensorboard and writes:
            from pipeline.training.tensorboard import TrainingEvents

            listeners.append(opened.enter_context(TrainingEvents(options.runs)))
        yield listeners


class _CaseCounter:
    """Counts the preprocessed scans of a part: on a terminal in one line that is overwritten, else once at the end."""

    def __init__(self, part: str, total: int, console: Console) -> None:
        self._part, self._total, self._done, self._console = part.replace("_", " "), total, 0, console

    def __call__(self, case: str) -> None:
        self._done += 1
        if self._console.is_terminal:
            end = "\n" if self._done == self._total else "\r"
            self._console.print(f"{self._part}: {self._done}/{self._total} ready ({case})   ", end=end, markup=False)
        elif self._done == self._total:
            self._console.print(f"{self._part}: {self._total} ready", markup=False)
