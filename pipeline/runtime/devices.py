"""Where the networks run."""

import torch


class DeviceError(Exception):
    """A device that is not there: expected, got, next step."""


def pick_device(name: str) -> torch.device:
    """Return the device for "auto" (a GPU where there is one), "cpu" or "cuda".

    Raises:
        DeviceError: "cuda" where torch finds no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise DeviceError(
            f"--device cuda: expected a GPU that torch can use, got none (torch {torch.__version__}, {build}); "
            "take --device cpu, or a CUDA image started with --gpus all"
        )
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is exhausted, the GPU's included; torch has no one class for both."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
