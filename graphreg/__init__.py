"""Discrete registration: keypoints of the fixed image, the cost of every candidate displacement of
each, a graph on which neighbours agree, a dense map.
"""

from graphreg.cost_volume import cost_volume
from graphreg.densify import LeastSquaresSpline, NormalisedConvolution, ThinPlate
from graphreg.graph import Graph, NearestNeighbours, SpanningTree, from_networkx, to_networkx
from graphreg.graph_registration import GraphRegistration, register, shrinking_searches
from graphreg.inference import Independent, LoopyMinSum, MeanField, Quadratic, TreeMinSum
from graphreg.keypoints import FilledKeypoints, Foerstner, RandomKeypoints, RegularKeypoints
from graphreg.labels import Labels
from graphreg.search import Search

__all__ = [
    "FilledKeypoints",
    "Foerstner",
    "Graph",
    "GraphRegistration",
    "Independent",
    "Labels",
    "LeastSquaresSpline",
    "LoopyMinSum",
    "MeanField",
    "NearestNeighbours",
    "NormalisedConvolution",
    "Quadratic",
    "RandomKeypoints",
    "RegularKeypoints",
    "Search",
    "SpanningTree",
    "ThinPlate",
    "TreeMinSum",
    "cost_volume",
    "from_networkx",
    "register",
    "shrinking_searches",
    "to_networkx",
]
