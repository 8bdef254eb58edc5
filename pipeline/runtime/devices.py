"""The device that the networks run on, and running out of its memory."""

import torch


class DeviceError(Exception):
    """The device asked for is not available: expected, got, next step."""


def pick_device(name: str) -> torch.device:
    """Return the device for "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises:
        DeviceError: "cuda", and torch finds no GPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise DeviceError(
            f"--device cuda: expected a GPU that torch can use, got none (torch {torch.__version__}, {build}); "
            "use --device cpu, or a CUDA image started with --gpus all"
        )
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory, the GPU's or the host's, ran out; torch has no class for both."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
