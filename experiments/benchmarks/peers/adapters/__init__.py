"""One peer a file, run as a module by the Python in which that peer is installed; it needs
SimpleITK and the peer, and nothing of inrreg.
"""
