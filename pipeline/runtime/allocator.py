"""Settings of glibc's allocator: keep large blocks.

By default glibc returns freed blocks above 32 MB to the kernel, and the next layer page-faults new ones in. That takes
half of the time of a 3-D network on the CPU.
"""

import ctypes
import sys

# From malloc.h. mmap is switched off, because a threshold above 2 GB does not fit mallopt's int.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_TOP_PAD_BYTES = 64 * 2**20


def keep_large_blocks() -> bool:
    """Keep this process's freed memory for its next large block; return whether the C library took the settings.

    The environment variables `MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_` and `MALLOC_TOP_PAD_` do the same, but
    must be set before the process starts. Only glibc has these settings; with another library this returns False.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(libc.mallopt(parameter, value) == 1 for parameter, value in settings)
