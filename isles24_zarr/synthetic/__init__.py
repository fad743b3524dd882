"""A synthetic release in the layout of the real one, as awkward as that is."""

from isles24_zarr.synthetic.release import UNFINISHED, GroundTruth, ground_truth, synthesize

__all__ = ["UNFINISHED", "GroundTruth", "ground_truth", "synthesize"]
