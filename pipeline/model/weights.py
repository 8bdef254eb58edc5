"""Files of weights: for each structure a safetensors file, which cannot run code, and a JSON card beside it.

The card rebuilds the network, and says where its weights come from: `vs.safetensors` and `vs.json` for the VS.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from challenge.contract import Structure
from challenge.files import read_regular, written_whole
from pipeline.config import LARGEST_WINDOW, OURS, PAPER, SIDE_MULTIPLE
from pipeline.model.enet import ENet3d
from pipeline.model.rules import rules_of
from pipeline.model.shipped import WEIGHTS_VARIABLE, shipped_sets

CARD_FORMAT = 1

# The keys without which no network can be built; a card's other keys are for people.
_REQUIRED = ("format", "structure", "label", "network", "window", "spacing_mm", "sha256")
# Far above the paper's 2.7 MB and 128 channels; more is a mistake, and could exhaust the memory.
_MAX_WEIGHTS_BYTES, _MAX_CARD_BYTES = 2**28, 2**24
_MAX_CHANNELS = 512


class WeightsError(Exception):
    """The weights are missing, damaged or do not fit their card; the message says what to do."""


@dataclass(frozen=True)
class Segmenter:
    """One structure's network, ready to predict: in eval mode, on `device`, for cubic windows of `window` voxels."""

    structure: Structure
    network: torch.nn.Module
    window: int
    device: torch.device
    card: dict[str, Any]

    @property
    def windows_per_pass(self) -> int:
        """Return how many windows go through the network at once."""
        return OURS.windows_per_pass[self.structure]

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the structure's probability `(N, D, H, W)` float32 for normalised windows `(N, 1, D, H, W)`."""
        logits = self.network(windows).float()
        # The softmax over two channels is the sigmoid of their difference.
        return torch.sigmoid(logits[:, 1] - logits[:, 0])


def save_weights(folder: Path, structure: Structure, network: ENet3d, card: dict[str, Any], *, window: int) -> Path:
    """Write a network's weights and card to `folder`; return the card's path.

    Args:
        folder: is made if it is missing.
        structure: what the network segments.
        network: its weights and buffers are written unchanged, from any device.
        card: what a person should know: data, schedule, scores, departures from the paper. This function adds the keys
            that rebuild the network.
        window: side of the cubic window to predict with, in voxels of `spacing_mm`.

    Raises:
        OSError: the folder or the files cannot be written; each file is whole or absent.
        ValueError: the card lacks `spacing_mm`.
    """
    if "spacing_mm" not in card:
        raise ValueError("card: expected the key spacing_mm, got none; add the spacing of the training grid")
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    whole_card = {
        "format": CARD_FORMAT,
        "structure": structure.key,
        "label": structure.label,
        "network": {"name": type(network).__name__, "config": network.config()},
        "window": window,
        "sha256": hashlib.sha256(weights).hexdigest(),
        **card,
    }
    with written_whole(_weights_path(folder, structure)) as partial:
        partial.write_bytes(weights)
    with written_whole(_card_path(folder, structure)) as partial:
        partial.write_text(json.dumps(whole_card, indent=2) + "\n", encoding="utf-8")
    return _card_path(folder, structure)


def load_segmenter(folder: Path, structure: Structure, device: torch.device) -> Segmenter:
    """Rebuild a structure's network from its card and load its weights, strictly.

    Raises:
        WeightsError: a file is missing or damaged, or does not fit the card.
    """
    card = _read_card(_card_path(folder, structure), structure)
    path = _weights_path(folder, structure)
    try:
        weights = read_regular(path, _MAX_WEIGHTS_BYTES)
    except OSError as error:
        raise WeightsError(
            f"{path}: expected the weights for {structure.title}, got: {error.strerror or error}; {_advice()}"
        ) from error
    found = hashlib.sha256(weights).hexdigest()
    if found != card["sha256"]:
        raise WeightsError(
            f"{path}: expected sha256 {card['sha256']}, as on its card, got {found}; the file is damaged or belongs to "
            "another card: copy both again"
        )
    try:
        network = ENet3d(**card["network"]["config"])
        network.load_state_dict(load(weights), strict=True)
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: expected the weights of {card['network']}, got others ({error}); use their own card"
        ) from error
    return Segmenter(structure, network.eval().to(device), int(card["window"]), device, card)


def _read_card(path: Path, structure: Structure) -> dict[str, Any]:
    try:
        card = json.loads(read_regular(path, _MAX_CARD_BYTES).decode("utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{path}: expected the card of the weights for {structure.title}, got: {error.strerror or error}; "
            f"{_advice()}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: expected JSON, got damaged text ({error}); copy the card again") from error
    missing = [key for key in _REQUIRED if not isinstance(card, dict) or key not in card]
    if missing:
        raise WeightsError(f"{path}: expected a card with {', '.join(missing)}, got none; copy the card again")
    if card["format"] != CARD_FORMAT:
        raise WeightsError(
            f"{path}: expected a card of format {CARD_FORMAT}, got {card['format']}; update crossmoda-grl"
        )
    network = card["network"]
    if not isinstance(network, dict) or network.get("name") != ENet3d.__name__ or "config" not in network:
        raise WeightsError(f"{path}: expected the network {ENet3d.__name__}, got {network}; update crossmoda-grl")
    if (card["structure"], card["label"]) != (structure.key, structure.label):
        raise WeightsError(
            f"{path}: expected weights for {structure.key} (label {structure.label}), got {card['structure']} "
            f"(label {card['label']}); the files were renamed: give them their own names back"
        )
    try:
        _check_values(card)
        rules_of(card)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; correct the card, or update crossmoda-grl") from error
    return card


def _check_values(card: dict[str, Any]) -> None:
    """Refuse values that no network can have, before anything is built from them.

    Raises:
        ValueError: a value of another type, or out of range.
    """
    if type(card["spacing_mm"]) not in (int, float) or card["spacing_mm"] != PAPER.spacing_mm:
        raise ValueError(f"spacing_mm: expected {PAPER.spacing_mm:g}, the grid of predict, got {card['spacing_mm']!r}")
    window = card["window"]
    if type(window) is not int or not 0 < window <= LARGEST_WINDOW or window % SIDE_MULTIPLE:
        raise ValueError(f"window: expected a multiple of {SIDE_MULTIPLE} up to {LARGEST_WINDOW}, got {window!r}")
    config = card["network"]["config"]
    if not isinstance(config, dict) or not set(config) <= {"in_channels", "classes", "channels", "input"}:
        raise ValueError(
            f"network: expected a configuration with in_channels, classes, channels and input, got {config!r}"
        )
    widths = config.get("channels", [4, 4, 4])
    if [config.get("in_channels", 1), config.get("classes", 2)] != [1, 2] or not (
        isinstance(widths, list) and all(type(width) is int and 0 < width <= _MAX_CHANNELS for width in widths)
    ):
        raise ValueError(
            f"network: expected 1 input channel, 2 classes and three widths up to {_MAX_CHANNELS}, got {config!r}"
        )


def _advice() -> str:
    sets = ", ".join(shipped_sets())
    return f"name a folder of weights or a shipped set ({sets}) with --weights or {WEIGHTS_VARIABLE}"


def _weights_path(folder: Path, structure: Structure) -> Path:
    return folder / f"{structure.key}.safetensors"


def _card_path(folder: Path, structure: Structure) -> Path:
    return folder / f"{structure.key}.json"
