"""Choosing the frames that are worth a reference calculation."""

from deltaqmmm.sampling.diversity import describe_frames, farthest_points, standardise
from deltaqmmm.sampling.turns import farthest_in_turns, random_in_turns, shares

__all__ = ["describe_frames", "farthest_in_turns", "farthest_points", "random_in_turns", "shares", "standardise"]
