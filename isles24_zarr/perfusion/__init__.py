"""Maps of CT perfusion from the series: arterial input, deconvolution, maps, and how well they agree with others."""

from isles24_zarr.perfusion.agreement import VolumeAgreement, map_agreement, perfusion_agreement, volume_agreement
from isles24_zarr.perfusion.deconvolution import (
    Deconvolution,
    DeconvolutionMethod,
    Flows,
    deconvolution_of,
)
from isles24_zarr.perfusion.inputs import PerfusionInputs, baseline_image, brain_image, perfusion_inputs, scan_brain
from isles24_zarr.perfusion.maps import perfusion_maps

__all__ = [
    "Deconvolution",
    "DeconvolutionMethod",
    "Flows",
    "PerfusionInputs",
    "VolumeAgreement",
    "baseline_image",
    "brain_image",
    "deconvolution_of",
    "map_agreement",
    "perfusion_agreement",
    "perfusion_inputs",
    "perfusion_maps",
    "scan_brain",
    "volume_agreement",
]
