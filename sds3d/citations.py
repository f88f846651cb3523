"""Works to cite: one entry a key, and which of them a recipe uses. Plain data, imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.citation import Citation
from sds3d.guidance.table.papers import METHOD_PAPERS
from sds3d.material_papers import MATERIAL_PAPERS
from sds3d.renderer_papers import RENDERER_PAPERS

if TYPE_CHECKING:  # the recipe checks its keys against this table
    from sds3d.config import Recipe
    from sds3d.guidance.method import Method


_ENTRIES = (
    Citation(
        key="dreamfusion",
        title="DreamFusion: Text-to-3D using 2D Diffusion",
        authors="Ben Poole and Ajay Jain and Jonathan T. Barron and Ben Mildenhall",
        year=2023,
        venue="International Conference on Learning Representations (ICLR)",
        arxiv="2209.14988",
    ),
    Citation(
        key="sjc",
        title="Score Jacobian Chaining: Lifting Pretrained 2D Diffusion Models for 3D Generation",
        authors="Haochen Wang and Xiaodan Du and Jiahao Li and Raymond A. Yeh and Greg Shakhnarovich",
        year=2023,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2212.00774",
    ),
    Citation(
        key="mvdream",
        title="MVDream: Multi-view Diffusion for 3D Generation",
        authors="Yichun Shi and Peng Wang and Jianglong Ye and Mai Long and Kejie Li and Xiao Yang",
        year=2024,
        venue="International Conference on Learning Representations (ICLR)",
        arxiv="2308.16512",
    ),
    Citation(
        key="latent_diffusion",
        title="High-Resolution Image Synthesis with Latent Diffusion Models",
        authors='Robin Rombach and Andreas Blattmann and Dominik Lorenz and Patrick Esser and Bj{\\"o}rn Ommer',
        year=2022,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2112.10752",
    ),
    Citation(
        key="classifier_free_guidance",
        title="Classifier-Free Diffusion Guidance",
        authors="Jonathan Ho and Tim Salimans",
        year=2022,
        arxiv="2207.12598",
    ),
    Citation(
        key="gaussian_splatting",
        title="3D Gaussian Splatting for Real-Time Radiance Field Rendering",
        authors='Bernhard Kerbl and Georgios Kopanas and Thomas Leimk{\\"u}hler and George Drettakis',
        year=2023,
        venue="ACM Transactions on Graphics",
        is_article=True,
        arxiv="2308.04079",
    ),
    Citation(
        key="gaussian_mcmc",
        title="3D Gaussian Splatting as Markov Chain Monte Carlo",
        authors="Shakiba Kheradmand and Daniel Rebain and Gopal Sharma and Weiwei Sun and Yang-Che Tseng and "
        "Hossam Isack and Abhishek Kar and Andrea Tagliasacchi and Kwang Moo Yi",
        year=2024,
        venue="Advances in Neural Information Processing Systems (NeurIPS)",
        arxiv="2404.09591",
    ),
    Citation(
        key="gsplat",
        title="gsplat: An Open-Source Library for Gaussian Splatting",
        authors="Vickie Ye and Ruilong Li and Justin Kerr and Matias Turkulainen and Brent Yi and Zhuoyang Pan and "
        "Otto Seiskari and Jianbo Ye and Jeffrey Hu and Matthew Tancik and Angjoo Kanazawa",
        year=2024,
        arxiv="2409.06765",
    ),
)

CITATIONS: dict[str, Citation] = {
    entry.key: entry for entry in (*_ENTRIES, *METHOD_PAPERS, *RENDERER_PAPERS, *MATERIAL_PAPERS)
}
"""All works the project can cite, by key."""


def cited_by(recipe: Recipe) -> list[Citation]:
    """Return the works that exactly this recipe builds on: method, prior, renderer, and what it names itself."""
    from sds3d.guidance.methods import METHODS

    by_arxiv = {entry.arxiv: key for key, entry in CITATIONS.items() if entry.arxiv}
    stages = [stage for _, stage in recipe.plan()]
    trained = [] if recipe.is_at_once else stages
    guides = [guide for stage in trained for guide in (stage.guidance, *(extra.guidance for extra in stage.also))]
    rows = {row.arxiv: row for row in (METHODS[guide.method] for guide in guides)}
    own = {arxiv: _of_row(row) for arxiv, row in rows.items() if arxiv not in by_arxiv}
    keys = [by_arxiv.get(arxiv, arxiv) for arxiv in rows]
    keys += ["classifier_free_guidance", "latent_diffusion"]
    options = {
        "perp_neg": any(guide.perp_neg is not None for guide in guides),
        "pgc": any(guide.pixel_filter != "none" for guide in guides),
        "dreamtime": any(guide.times != "uniform" for guide in guides),
        "debiasing": bool(recipe.prompt.debias),
    }
    keys += [key for key, is_used in options.items() if is_used]
    keys += [key for stage in stages for key in stage.renderer.cites]
    keys += recipe.cite
    known = {**CITATIONS, **own}
    return [known[key] for key in dict.fromkeys(keys)]


def _of_row(row: Method) -> Citation:
    """Return what the method table itself knows about a paper that has no entry here."""
    year = 2000 + int(row.arxiv[:2])
    return Citation(key=f"arxiv_{row.arxiv}", title=row.paper, authors=row.authors, year=year, arxiv=row.arxiv)
