"""A short run of `scripts/chaos`; the long ones are run by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.cluster
def test_nothing_is_lost_doubled_wrong_stuck_or_left_over(redis_installed: None) -> None:
    command = [sys.executable, "-m", "tests.chaos.run", "--seconds", "12", "--seed", "1", "--pause", "0.7"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
