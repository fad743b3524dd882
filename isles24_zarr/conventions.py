"""Numbers of the field that are taken where none is given, each with its source."""

from __future__ import annotations

from typing import Final

TMAX_THRESHOLD: Final = 6.0
"""Tissue whose Tmax is longer, in s, is critically hypoperfused: DEFUSE 3 (doi:10.1056/NEJMoa1713973)."""

CBF_FRACTION: Final = 0.3
"""Tissue whose CBF is below this fraction of that of the other hemisphere is ischaemic core: the same trial."""

BASELINE_FRAMES: Final = 3
"""Frames at the start of a series that are taken to be without contrast agent."""

MATCHING_THRESHOLD: Final = 0.2
"""Intersection over union from which on two lesions match, in the challenge's evaluation since December 2025."""

SOFT_MASK_THRESHOLD: Final = 0.5
"""Fraction from which on voxels of a soft mask count."""

MM3_PER_ML: Final = 1000.0
