"""Discrete registration on keypoint graphs."""
