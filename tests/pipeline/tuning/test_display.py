"""What stands on stderr while a search goes on."""

import io

from rich.console import Console

from pipeline.tuning.display import TrialsDisplay
from pipeline.tuning.spaces import SPACES
from pipeline.tuning.trials import TrialRow

PAPERS_POINT = {"learning_rate": 1e-3, "dice_weight": 3.4}
OTHER = {"learning_rate": 0.0123, "dice_weight": 0.5}
DONE = TrialRow(0, "complete", PAPERS_POINT, 6, 0.25, 9.0)


def test_elsewhere_than_on_a_terminal_a_line_for_whatever_happens() -> None:
    text = io.StringIO()
    with TrialsDisplay(Console(file=text, soft_wrap=True), SPACES["supervised"]) as display:
        display.show([TrialRow(0, "waiting", PAPERS_POINT)])
        display.show([TrialRow(0, "running", PAPERS_POINT)])
        display.show([TrialRow(0, "running", PAPERS_POINT)])  # nothing new
        display.show([TrialRow(0, "running", PAPERS_POINT, 3, 0.125)])
        display.show([DONE, TrialRow(1, "failed", OTHER, None, None, 2.0, "out of memory: [enforce fail]")])
    assert text.getvalue().splitlines() == [
        "trial 0 running, learning_rate 0.001, dice_weight 3.4, the paper's point",
        "trial 0 running, learning_rate 0.001, dice_weight 3.4, epoch 3, score 0.1250, the paper's point",
        "trial 0 complete, learning_rate 0.001, dice_weight 3.4, epoch 6, score 0.2500, 9 s, best, the paper's point",
        "trial 1 failed, learning_rate 0.0123, dice_weight 0.5, 2 s, out of memory: [enforce fail]",
    ]


def test_on_a_terminal_a_table_with_as_many_of_the_last_trials_as_it_has_room_for() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=14, record=True)
    rows = [DONE, *(TrialRow(number, "pruned", OTHER, 2, 0.1, 5.0) for number in range(1, 20))]
    with TrialsDisplay(console, SPACES["supervised"]) as display:
        display.show(rows)
    last = console.export_text().splitlines()[-10:]
    assert [line.split()[1] for line in last if "pruned" in line] == ["14", "15", "16", "17", "18", "19"]
