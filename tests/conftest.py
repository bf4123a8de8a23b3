"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # results to the bit, and no fighting over cores with worker processes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of unpacked real data: $RBSF_DATA with GOT-10k/train, OTB, UAV123_10fps, stills."""
    folder = os.environ.get("RBSF_DATA")
    if not folder:
        pytest.skip("RBSF_DATA is not set: no real data to test on")
    return Path(folder)
