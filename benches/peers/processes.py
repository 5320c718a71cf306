"""Running and timing processes, and what machine it was."""

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time


class Failed(Exception):
    """A process that had to succeed did not."""


def run(command, env=None, cwd=None):
    """Runs to the end. Wall, user and system seconds, peak resident bytes (mapped files included),
    and standard output."""
    # By a small process of its own: Linux counts the peak of whoever forks as the child's.
    launcher = subprocess.run(
        [sys.executable, __file__, *(str(word) for word in command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    if launcher.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {launcher.stderr[-2000:]}")
    result = json.loads(launcher.stdout)
    if result.pop("code") != 0:
        raise Failed(f"{' '.join(map(str, command))}: {result['stderr'][-2000:]}")
    del result["stderr"]
    return result


def measure(command):
    """What `run` gives, the exit code and standard error."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = []
    reader = threading.Thread(target=lambda: said.append(child.stderr.read()))
    reader.start()
    stdout = child.stdout.read()
    reader.join()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall": wall,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "stdout": stdout,
        "stderr": said[0],
        "code": child.returncode,
    }


def first_byte(command):
    """Seconds until a process writes its first byte."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [str(w) for w in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    got = child.stdout.read(1)
    seconds = time.perf_counter() - start
    child.stdout.read()
    if child.wait() != 0 or not got:
        raise Failed(f"{command[0]} wrote nothing or failed")
    return seconds


def settle(path, cache):
    """Writes back what is dirty, then brings a file into the page cache or out of it."""
    os.sync()
    with open(path, "rb", buffering=0) as file:
        if cache == "cold":
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            buffer = bytearray(8 << 20)
            while file.readinto(buffer):
                pass


def median(rounds, key="wall"):
    return statistics.median(one[key] for one in rounds)


def host():
    """What a reader needs to judge the figures."""
    cpu = platform.processor()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    flags = subprocess.run(["lscpu"], capture_output=True, text=True).stdout if shutil.which("lscpu") else ""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    return {
        "name": platform.node(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "avx512": "avx512" in flags,
        "memory": memory,
        "system": platform.platform(),
        "date": datetime.date.today().isoformat(),
        "load": list(os.getloadavg()),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
