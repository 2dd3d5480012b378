"""How the process's memory is kept between two long answers.

A list of 500 tools is 270 KB of text, and it is put together and freed for each client that asks. glibc gives freed
memory of that size back to the kernel and asks for it again, page by page: four copies cost 730 µs then, against 33 µs
in memory that stays (tests/vmcp/test_heap.py). So up to 16 MiB stay: two of the largest bodies that there may be.
"""

import ctypes

KEPT_BYTES_MAX = 16 << 20
# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tells the C library; false where it has no such setting (musl), and all goes on as slowly as before."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, KEPT_BYTES_MAX) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
