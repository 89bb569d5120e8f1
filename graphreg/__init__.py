"""Discrete registration on keypoint graphs: nothing of it is here yet."""
