"""Loss terms of meshes, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from renderers import surface_regularisers as terms
from renderers.surface import face_normals, vertex_normals

TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
FACES = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])


def test_directed_edges_come_once_a_way():
    start, end = terms.directed_edges(FACES)
    pairs = set(zip(start.tolist(), end.tolist(), strict=True))
    assert len(pairs) == len(start) == 12 and all((b, a) in pairs for a, b in pairs)


def test_values_of_a_regular_tetrahedron():
    normals = vertex_normals(TETRAHEDRON, FACES)
    assert torch.allclose(normals, TETRAHEDRON / math.sqrt(3), atol=1e-6)
    assert float(terms.normal_consistency(normals, FACES)) == pytest.approx(4 / 3)  # cosine between corners: -1/3
    assert float(terms.edge_length(TETRAHEDRON, FACES)) == pytest.approx(8.0)
    # The other three corners have their mean opposite, a third as far: distance 4/3 of sqrt 3.
    assert float(terms.laplacian(TETRAHEDRON, FACES)) == pytest.approx(4 / math.sqrt(3), rel=1e-5)


def test_a_flat_patch_has_no_laplacian_inside_and_unused_vertices_do_not_count():
    angle = torch.arange(6) * (math.pi / 3)
    ring = torch.stack([angle.cos(), angle.sin(), torch.zeros(6)], dim=1)
    vertices = torch.cat([torch.zeros(1, 3), ring, torch.full((1, 3), 9.0)])
    faces = torch.tensor([[0, k + 1, (k + 1) % 6 + 1] for k in range(6)])
    vertices.requires_grad_()
    terms.laplacian(vertices, faces).backward()
    assert bool(vertices.grad[7].eq(0).all()) and bool(vertices.grad.isfinite().all())


def test_entropy_is_that_of_both_ends_and_pushes_them_to_one_sign():
    sdf = torch.tensor([[-0.3, 0.2]], requires_grad=True)
    value = terms.sdf_entropy(sdf)
    expected = 0.5 * (-math.log(1 / (1 + math.exp(0.3))) - math.log(1 - 1 / (1 + math.exp(-0.2))))
    assert float(value.detach()) == pytest.approx(expected)
    value.backward()
    assert sdf.grad[0, 0] < 0 < sdf.grad[0, 1]  # descent raises the inside end and lowers the outside end


@pytest.mark.parametrize("term", [terms.laplacian, terms.edge_length])
def test_gradients(term):
    vertices = TETRAHEDRON.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: term(v + 0.1 * v.sin(), FACES), vertices)


def test_gradient_of_normals():
    vertices = TETRAHEDRON.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v + 0.1 * v.sin(), FACES), vertices)
    area = 0.5 * face_normals(TETRAHEDRON, FACES).norm(dim=1)
    assert torch.allclose(area, torch.full((4,), 2 * math.sqrt(3)))


def test_all_terms_run_without_data():
    vertices, faces = torch.empty(4, 3, device="meta", requires_grad=True), FACES.to("meta")
    total = terms.laplacian(vertices, faces) + terms.edge_length(vertices, faces)
    total = total + terms.normal_consistency(vertex_normals(vertices, faces), faces)
    (total + terms.sdf_entropy(torch.empty(5, 2, device="meta"))).backward()
    assert vertices.grad.shape == (4, 3)
