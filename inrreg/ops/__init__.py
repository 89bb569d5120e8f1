"""What is done to values on grids: sampling, interpolation, smoothing, distances, masks, small
matrices.
"""
