# SPDX-License-Identifier: Apache-2.0
"""The scripts are no package: tests import them by their folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
