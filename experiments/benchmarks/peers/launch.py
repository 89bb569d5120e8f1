"""Runs a command and writes what it used: python launch.py USAGE.json COMMAND ...

In a process of its own, for what a process holds when it starts another one counts as that one's
peak memory.
"""

import json
import os
import sys
import time

started = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
seconds = time.perf_counter() - started
with open(sys.argv[1], "w", encoding="utf-8") as stream:
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    json.dump(
        {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "memory_mb": peak,
        },
        stream,
    )
