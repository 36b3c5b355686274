from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPO_DIR = Path(__file__).parents[1]

# Material that may lie beside a checkout (recorded sessions and the like); tests that read it take the fixture below.
SHARED = REPO_DIR.parent / "shared"

# No deadlines: a shared machine is slow at times. On CI the examples are the same in every run.
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs the optional folder `shared` beside the repository")
    return SHARED
