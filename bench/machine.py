"""What /proc says: processor time and memory of a process tree, and the machine that a result was measured on."""

import os
import pathlib
import platform
import resource

import msgspec

PROC = pathlib.Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Of a stat line after the command's closing parenthesis: state is field 0, see proc(5) less three.
PARENT, USER_TICKS, SYSTEM_TICKS = 1, 11, 12


class Machine(msgspec.Struct, frozen=True):
    """Where a result was measured."""

    kernel: str
    cpu: str
    cpus: int
    memory_bytes: int
    python: str
    open_files_max: int
    load_average_before: tuple[float, float, float]


def describe() -> Machine:
    return Machine(
        kernel=platform.release(),
        cpu=_cpu_model(),
        cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES,
        python=platform.python_version(),
        open_files_max=open_files_max(),
        load_average_before=os.getloadavg(),
    )


def open_files_max() -> int:
    """Raises our own soft limit to the hard one; everything we start inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def process_tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[PARENT]), []).append(int(entry.name))
    tree = [root]
    for process in tree:
        tree.extend(children.get(process, ()))
    return tree


def cpu_seconds(processes: list[int]) -> float:
    """User and system time. The scheduler's own account is to the nanosecond; `stat` counts in hundredths of a second,
    which is too coarse for a round of half a second."""
    total = 0.0
    for process in processes:
        accounts = (PROC / str(process) / "task").glob("*/schedstat")
        try:
            nanoseconds = sum(int(account.read_text().split()[0]) for account in accounts)
        except (FileNotFoundError, ProcessLookupError):
            nanoseconds = 0
        if nanoseconds:
            total += nanoseconds / 1e9
        elif fields := _stat_fields(process):
            total += (int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])) / TICKS_PER_SECOND
    return total


def rss_bytes(processes: list[int]) -> int:
    """Resident memory; of several processes the proportional share, so that shared pages count once."""
    if len(processes) == 1:
        return int((PROC / str(processes[0]) / "statm").read_text().split()[1]) * PAGE_BYTES
    total = 0
    for process in processes:
        for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _stat_fields(process: int) -> list[str] | None:
    try:
        text = (PROC / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _cpu_model() -> str:
    for line in (PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
