"""Numbers of the field that are taken where none is given, each with its source."""

from __future__ import annotations

from typing import Final

TMAX_THRESHOLD: Final = 6.0
"""Tissue whose Tmax is longer, in s, is critically hypoperfused: DEFUSE 3 (doi:10.1056/NEJMoa1713973)."""

SEVERE_TMAX: Final = 10.0
"""In s; the part of hypoperfused tissue above it is the intensity ratio (doi:10.1161/STROKEAHA.113.003857)."""

CBF_FRACTION: Final = 0.3
"""Tissue whose CBF is below this fraction of that of the other hemisphere is ischaemic core: the same trial."""

BASELINE_FRAMES: Final = 3
"""Frames at the start of a series that are taken to be without contrast agent."""

HAEMATOCRIT: Final = (0.45, 0.25)
"""Of large and of small vessels: Calamante et al., Magn Reson Med 2000;44:466-473."""

TISSUE_DENSITY: Final = 1.04
"""Of brain, in g/mL: Rempp et al., Radiology 1994;193:637-641."""

MATCHING_THRESHOLD: Final = 0.2
"""Intersection over union from which on two lesions match, in the challenge's evaluation since December 2025."""

SOFT_MASK_THRESHOLD: Final = 0.5
"""Fraction from which on voxels of a soft mask count."""

MM3_PER_ML: Final = 1000.0


def blood_factor(haematocrit: tuple[float, float] = HAEMATOCRIT, density: float = TISSUE_DENSITY) -> float:
    """Return the factor from contrast agent, as a part of that in the artery and per mL of tissue, to blood per g."""
    large, small = haematocrit
    return (1 - large) / (1 - small) / density
