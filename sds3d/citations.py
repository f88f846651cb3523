"""Works to cite: one entry a key, and which of them a recipe uses. Plain data, imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the recipe checks its keys against this table
    from sds3d.config import Recipe


@dataclass(frozen=True, kw_only=True)
class Citation:
    """A published work.

    Args:
        authors: full names, in order, joined with " and " as BibTeX wants them.
        venue: conference or journal, "" for a preprint.
        is_article: whether the venue is a journal.
        arxiv: identifier such as "2209.14988", "" if there is none.
    """

    key: str
    title: str
    authors: str
    year: int
    venue: str = ""
    is_article: bool = False
    arxiv: str = ""

    @property
    def line(self) -> str:
        """One readable line: first author, title, venue, year, identifier."""
        first, *others = self.authors.split(" and ")
        who = f"{first} et al." if others else first
        where = ", ".join(part for part in (self.venue, str(self.year)) if part)
        return f"{who}: {self.title}. {where}" + (f". arXiv:{self.arxiv}" if self.arxiv else "")

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        rows = [("title", f"{{{self.title}}}"), ("author", self.authors), ("year", str(self.year))]
        rows += [("journal" if self.is_article else "booktitle", self.venue)] if self.venue else []
        rows += [("eprint", self.arxiv), ("archivePrefix", "arXiv")] if self.arxiv else []
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in rows)
        kind = "article" if self.is_article else "inproceedings" if self.venue else "misc"
        return f"@{kind}{{{self.key},\n{body}}}"


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

CITATIONS: dict[str, Citation] = {entry.key: entry for entry in _ENTRIES}
"""All works the project can cite, by key."""


def cited_by(recipe: Recipe) -> list[Citation]:
    """Return the works that exactly this recipe builds on: method, prior, renderer, and what it names itself."""
    from sds3d.guidance.methods import METHODS

    by_arxiv = {entry.arxiv: key for key, entry in CITATIONS.items() if entry.arxiv}
    keys = [by_arxiv.get(METHODS[recipe.guidance.method].arxiv, ""), "classifier_free_guidance", "latent_diffusion"]
    keys += ["gaussian_splatting"]
    keys += ["gaussian_mcmc"] if recipe.renderer.density.mode == "relocate" else []
    keys += ["gsplat"] if recipe.renderer.backend == "gsplat" else []
    keys += recipe.cite
    return [CITATIONS[key] for key in dict.fromkeys(keys) if key]
