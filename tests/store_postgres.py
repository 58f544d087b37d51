"""A Postgres server of the tests' own, in a folder that goes with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def server() -> Iterator[str]:
    """Start a server and give its URL, which names no database yet; skip where there is none to start."""
    pytest.importorskip("psycopg")
    initdb, pg_ctl = shutil.which("initdb"), shutil.which("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no Postgres is installed here")
    with tempfile.TemporaryDirectory(prefix="evoemb-pg-", ignore_cleanup_errors=True) as folder:
        owner = {}
        if os.getuid() == 0:  # Postgres never runs as root
            owner = {"user": "nobody" if shutil.which("su") is None else "postgres"}
            shutil.chown(folder, owner["user"])
        data = Path(folder, "data")

        def call(*command: str) -> None:
            subprocess.run(command, check=True, cwd=folder, capture_output=True, timeout=120, **owner)

        call(initdb, "-D", str(data), "-U", "evoemb", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        call(pg_ctl, "-D", str(data), "-l", str(Path(folder, "log")), "-o", options, "-w", "start")
        try:
            yield f"postgresql://evoemb@/{{name}}?host={folder}"
        finally:
            call(pg_ctl, "-D", str(data), "-m", "immediate", "stop")
