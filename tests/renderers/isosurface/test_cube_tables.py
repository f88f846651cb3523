"""The derived tables: what is known of the 256 cases without looking them up."""

from __future__ import annotations

import itertools

import pytest
import torch

from renderers.isosurface.cube_tables import EDGES, cube_tables, patches, rings


def test_edges_and_faces_are_those_of_a_cube():
    assert len(set(EDGES)) == 12 and all((a ^ b).bit_count() == 1 for a, b in EDGES)
    for face, ring in enumerate(rings()):
        axis, side = face // 2, face % 2
        assert all(c >> axis & 1 == side for c in ring) and len(set(ring)) == 4
        assert all((a ^ b).bit_count() == 1 for a, b in zip(ring, ring[1:] + ring[:1], strict=True))


def test_crossed_edges_are_those_with_two_signs():
    patch = cube_tables().patch
    for case, (e, (a, b)) in itertools.product(range(256), enumerate(EDGES)):
        is_crossed = (case >> a & 1) != (case >> b & 1)
        assert (patch[case, 0, e] >= 0) == is_crossed and (patch[case, 1, e] >= 0) == is_crossed


def test_patches_are_loops_of_at_least_three_edges():
    tables = cube_tables()
    for case in range(256):
        for changed in (0, 1):
            sizes = torch.bincount(tables.patch[case, changed].clamp_min(-1) + 1, minlength=5)[1:]
            assert int((sizes > 0).sum()) == tables.count[case, changed] <= 4 and bool(
                ((sizes == 0) | (sizes > 2)).all()
            )


def test_each_inside_corner_alone_gives_its_own_patch():
    for corner in range(8):
        others = [1 << (corner ^ 7)]  # the opposite one
        assert cube_tables().count[1 << corner, 0] == 1
        assert cube_tables().count[1 << corner | others[0], 0] == 2
    assert cube_tables().count[0b01101001, 0] == 4  # four corners, no two of them neighbours


def test_doubtful_cases_are_the_two_classes_of_the_literature():
    """FlexiCubes names C16 and C19: under turning and mirroring they are two classes, of 36 cases in all.

    A changed mind takes the doubtful patch apart.
    """
    tables = cube_tables()
    doubtful = (tables.doubtful >= 0).nonzero()[:, 0].tolist()
    assert {canonical(case) for case in doubtful} == {canonical(doubtful[0]), *map(canonical, doubtful)}
    assert len({canonical(case) for case in doubtful}) == 2
    assert bool((tables.count[doubtful, 1] == tables.count[doubtful, 0] + 1).all())
    for case in doubtful:
        assert patches(case, int(tables.doubtful[case]))[1] == -1


def canonical(case: int) -> int:
    """Return the smallest case that turning and mirroring make of `case`."""
    found = []
    for order in itertools.permutations(range(3)):
        for flip in range(8):
            moved = [sum(((c >> order[k] & 1) ^ (flip >> k & 1)) << k for k in range(3)) for c in range(8)]
            found.append(sum((case >> c & 1) << moved[c] for c in range(8)))
    return min(found)


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_a_turned_cube_has_the_turned_patches(order):
    for case in range(256):
        moved = [sum((c >> order[k] & 1) << k for k in range(3)) for c in range(8)]
        turned = sum((case >> c & 1) << moved[c] for c in range(8))
        groups = set()
        for source, through in ((case, moved), (turned, range(8))):
            patch, _ = patches(source)
            edges = {}
            for e, (a, b) in enumerate(EDGES):
                edges.setdefault(int(patch[e]), set()).add(frozenset((through[a], through[b])))
            groups.add(frozenset(frozenset(v) for k, v in edges.items() if k >= 0))
        assert len(groups) == 1
