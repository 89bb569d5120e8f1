"""What everything else stands on: errors, threads, grids, images, points, the image pair, files and
hashes.
"""
