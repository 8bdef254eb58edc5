"""glibc's allocator, told to keep large blocks.

By default glibc hands blocks above 32 MB back to the kernel and page-faults them in again at the next layer, which
takes half of the time of a 3-D network on the CPU.
"""

import ctypes
import sys

# From malloc.h. A threshold above 2 GB does not fit mallopt's int, so mmap is switched off altogether instead.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_TOP_PAD_BYTES = 64 * 2**20


def keep_large_blocks() -> bool:
    """Let this process keep freed memory for its next large block; return whether the C library took the settings.

    The same as the environment's `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_` and `MALLOC_TOP_PAD_`, which must
    be set before a process starts. Only glibc has these settings: elsewhere nothing happens and False is returned.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings)
