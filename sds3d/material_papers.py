"""The works behind materials and their shading, in the form of `sds3d.citations`. Plain data."""

from __future__ import annotations

from sds3d.citation import Citation

MATERIAL_PAPERS = (
    Citation(
        key="dreammat",
        title="DreamMat: High-quality PBR Material Generation with Geometry- and Light-aware Diffusion Models",
        authors="Yuqing Zhang and Yuan Liu and Zhiyu Xie and Lei Yang and Zhongyuan Liu and Mengzhou Yang and "
        "Runze Zhang and Qilong Kou and Cheng Lin and Wenping Wang and Xiaogang Jin",
        year=2024,
        venue="ACM Transactions on Graphics",
        is_article=True,
        arxiv="2405.17176",
    ),
    Citation(
        key="controlnet",
        title="Adding Conditional Control to Text-to-Image Diffusion Models",
        authors="Lvmin Zhang and Anyi Rao and Maneesh Agrawala",
        year=2023,
        venue="IEEE/CVF International Conference on Computer Vision (ICCV)",
        arxiv="2302.05543",
    ),
    Citation(
        key="split_sum",
        title="Real Shading in Unreal Engine 4",
        authors="Brian Karis",
        year=2013,
        venue="SIGGRAPH Courses: Physically Based Shading in Theory and Practice",
    ),
)
"""Text to material, and what its pictures are drawn with."""
