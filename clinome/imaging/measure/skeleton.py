"""From the outline of a tree of tubes to its centre lines: segments between branch points, smooth, with widths along them.

The outline is thinned to a skeleton of single pixels (Zhang & Suen 1984, by scikit-image). Pixels are neighbours when they share
a side, or a corner without a common side neighbour, so that the steps of a staircase are no branch points. Spurs that do not
reach out of the vessel that they stand on are removed; branch points that lie within a vessel's width of each other are one (a
crossing is thinned to two). A width is the distance between the places on both sides where the outline, interpolated along the
normal, falls through one half.

References
----------
Zhang TY, Suen CY. A fast parallel algorithm for thinning digital patterns. Communications of the ACM 27:236–239 (1984),
doi:10.1145/357994.358023.

>>> tube = np.zeros((40, 60), bool); tube[17:22, 5:55] = True
>>> tree = trace(tube)
>>> len(tree.segments), len(tree.branch_points), float(np.median(tree.segments[0].width))
(1, 0, 5.0)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates

from clinome.core.errors import need

Points = NDArray[np.float64]
_AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
_SMOOTH = 3.0  # standard deviation, in pixels, of the smoothing along a centre line
_ROUNDS = 8  # of pruning
_STEP = 0.25  # pixels between samples across a vessel


class Segment(NamedTuple):
    """A centre line between two ends, sampled about every pixel; lengths in pixels.

    Attributes
    ----------
    points
        Row and column, smoothed, shape (n, 2).
    normal
        Unit vector across the vessel, shape (n, 2).
    width
        Shape (n,); NaN near branch points and where the profile finds no edge.
    curvature
        One over the radius of curvature, not negative, shape (n,).
    ends
        The node at each end: an index of ``branch_points``, or −1 for a free end.
    """

    points: Points
    normal: Points
    width: NDArray[np.float64]
    curvature: NDArray[np.float64]
    ends: tuple[int, int]

    @property
    def length(self) -> float:
        """Arc length in pixels."""
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    @property
    def chord(self) -> float:
        """Distance of the ends in pixels."""
        return float(np.hypot(*(self.points[-1] - self.points[0])))


class Tree(NamedTuple):
    """Segments, and the ``branch_points`` (row, column), shape (n, 2), in which three or more of them meet."""

    segments: list[Segment]
    branch_points: Points
    skeleton: NDArray[np.bool_]


def trace(outline: NDArray[np.bool_]) -> Tree:
    """Trace the centre lines of ``outline``, shape (height, width)."""
    outline = np.asarray(outline, dtype=bool)
    depth = distance_transform_edt(np.pad(outline, 1))[1:-1, 1:-1]
    skeleton = np.asarray(need("skimage.morphology", "imaging").skeletonize(outline), dtype=bool)
    paths = _paths(skeleton)
    for _ in range(_ROUNDS):
        spurs = [path for path in paths if _is_spur(path, depth)]
        if not spurs:
            break
        for path in spurs:
            skeleton[tuple(path.pixels[slice(1, None) if path.degrees[0] > 2 else slice(None, -1)].T)] = False
        skeleton = np.asarray(need("skimage.morphology", "imaging").skeletonize(skeleton), dtype=bool)
        paths = _paths(skeleton)
    centres, node_of = _branch_points(paths, depth)
    soft = outline.astype(np.float64)
    segments = []
    for path in paths:
        ends = tuple(node_of.get(tuple(path.pixels[end]), -1) if path.degrees[end] > 2 else -1 for end in (0, -1))
        if len(path.pixels) > 2 and not (ends[0] == ends[1] != -1 and _within(path, depth)):
            segments.append(_segment(path.pixels, (ends[0], ends[1]), soft, depth))
    return Tree(segments, centres, skeleton)


class _Path(NamedTuple):
    """Pixels from node to node, shape (n, 2), with the numbers of neighbours of the first and the last."""

    pixels: NDArray[np.int64]
    degrees: tuple[int, int]


def _paths(skeleton: NDArray[np.bool_]) -> list[_Path]:
    """Cut a skeleton at its ends and branch points."""
    pixels = np.argwhere(skeleton)
    number = np.full(tuple(np.array(skeleton.shape) + 2), -1, dtype=np.int64)
    number[pixels[:, 0] + 1, pixels[:, 1] + 1] = np.arange(len(pixels))
    near = np.stack([number[pixels[:, 0] + 1 + dy, pixels[:, 1] + 1 + dx] for dy, dx in _AROUND], axis=1)
    for k, (dy, dx) in enumerate(_AROUND[4:], start=4):  # a corner neighbour counts only where no side neighbour joins the two
        shared = (near[:, _AROUND.index((dy, 0))] >= 0) | (near[:, _AROUND.index((0, dx))] >= 0)
        near[shared, k] = -1
    degree = (near >= 0).sum(axis=1)
    neighbours = [[j for j in row if j >= 0] for row in near.tolist()]
    seen: set[tuple[int, int]] = set()
    found = []
    lone = np.ones(len(pixels), dtype=bool)  # pixels of closed rings are in no path yet
    for start in [*np.flatnonzero(degree != 2).tolist()]:
        for step in neighbours[start]:
            if (start, step) not in seen:
                found.append(_walk(start, step, neighbours, seen))
                lone[found[-1]] = False
    for start in np.flatnonzero(degree == 2).tolist():
        if lone[start]:
            found.append(_walk(start, neighbours[start][0], neighbours, seen))
            lone[found[-1]] = False
    return [_Path(pixels[path], (int(degree[path[0]]), int(degree[path[-1]]))) for path in found]


def _walk(start: int, step: int, neighbours: list[list[int]], seen: set[tuple[int, int]]) -> list[int]:
    """Follow a line from ``start`` by ``step`` to the next node, or round a ring; note the edges taken."""
    path = [start, step]
    seen.add((start, step))
    while len(neighbours[path[-1]]) == 2 and path[-1] != start:
        first, second = neighbours[path[-1]]
        path.append(second if first == path[-2] else first)
    seen.add((path[-1], path[-2]))
    return path


def _is_spur(path: _Path, depth: NDArray[np.float64]) -> bool:
    """Tell a line from a branch point to a free end that hardly leaves the vessel at the branch point."""
    if (path.degrees[0] == 1) == (path.degrees[1] == 1) or max(path.degrees) < 3:
        return False
    foot = path.pixels[0] if path.degrees[1] == 1 else path.pixels[-1]
    return bool(_length(path.pixels) <= 1.2 * depth[tuple(foot)] + 2)


def _length(pixels: NDArray[np.int64]) -> float:
    return float(np.hypot(*np.diff(pixels, axis=0).T).sum())


def _within(path: _Path, depth: NDArray[np.float64]) -> bool:
    """Tell a line that is no longer than the vessel is wide at its ends."""
    return _length(path.pixels) <= float(depth[tuple(path.pixels[0])] + depth[tuple(path.pixels[-1])])


def _branch_points(paths: list[_Path], depth: NDArray[np.float64]) -> tuple[Points, dict[tuple[int, int], int]]:
    """Merge branch points joined within a vessel's width; return their centres and the centre of each branch pixel."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(pixel: tuple[int, int]) -> tuple[int, int]:
        while parent.setdefault(pixel, pixel) != pixel:
            pixel = parent[pixel]
        return pixel

    for path in paths:
        ends = [(int(path.pixels[e][0]), int(path.pixels[e][1])) for e in (0, -1) if path.degrees[e] > 2]
        roots = [root(end) for end in ends]
        if len(roots) == 2 and _within(path, depth):
            parent[roots[0]] = roots[1]
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for pixel in list(parent):
        groups.setdefault(root(pixel), []).append(pixel)
    node_of = {pixel: k for k, group in enumerate(groups.values()) for pixel in group}
    centres = np.array([np.mean(group, axis=0) for group in groups.values()], dtype=np.float64).reshape(-1, 2)
    return centres, node_of


def _segment(pixels: NDArray[np.int64], ends: tuple[int, int], soft: NDArray[np.float64], depth: NDArray[np.float64]) -> Segment:
    """Smooth a line of pixels and measure across it."""
    raw = pixels.astype(np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(raw, axis=0).T))])
    even = np.linspace(0, along[-1], max(round(float(along[-1])) + 1, 3))
    line = np.stack([np.interp(even, along, raw[:, axis]) for axis in (0, 1)], axis=1)
    step = even[1]
    points, slope, bend = (_smooth(line, order) / step**order for order in (0, 1, 2))
    speed = np.maximum(np.hypot(*slope.T), 1e-9)
    normal = np.stack([-slope[:, 1], slope[:, 0]], axis=1) / speed[:, None]
    curvature = np.abs(slope[:, 0] * bend[:, 1] - slope[:, 1] * bend[:, 0]) / speed**3
    width = _widths(points, normal, soft, depth)
    for end, node in zip((0, -1), ends, strict=True):
        if node >= 0:  # across a branch point lies another vessel
            far = np.hypot(*(points - points[end]).T) > 1.5 * depth[tuple(pixels[end])] + 1
            width[~far] = np.nan
    return Segment(points, normal, width, curvature, ends)


def _smooth(line: Points, order: int) -> Points:
    """Smooth a line, or differentiate it by its index, with its ends held: continued by point reflection."""
    pad = min(int(4 * _SMOOTH), len(line) - 1)
    before, after = 2 * line[0] - line[pad:0:-1], 2 * line[-1] - line[-2 : -pad - 2 : -1]
    smooth = gaussian_filter1d(np.concatenate([before, line, after]), _SMOOTH, axis=0, order=order, mode="nearest")
    return np.asarray(smooth[pad : pad + len(line)])


def _widths(points: Points, normal: Points, soft: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance between the edges on both sides of each point, NaN where one is not within twice the depth."""
    limit = 2 * map_coordinates(depth, points.T, order=1, mode="constant") + 2
    offsets = np.arange(0, float(limit.max(initial=2)) + _STEP, _STEP)
    total = np.zeros(len(points))
    for side in (1.0, -1.0):
        places = points[:, :, None] + side * normal[:, :, None] * offsets
        values = map_coordinates(soft, places.transpose(1, 0, 2), order=1, mode="constant")
        outside = values < 0.5
        first = outside.argmax(axis=1)
        found = outside.any(axis=1) & (first > 0) & (offsets[first] <= limit)
        rows = np.arange(len(points))
        inner, outer = values[rows, np.maximum(first - 1, 0)], values[rows, first]
        share = (inner - 0.5) / np.maximum(inner - outer, 1e-12)
        total += np.where(found, offsets[np.maximum(first - 1, 0)] + share * _STEP, np.nan)
    return total
