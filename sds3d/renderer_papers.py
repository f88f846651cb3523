"""The works behind the renderers, in the form of `sds3d.citations`. Plain data."""

from __future__ import annotations

from sds3d.citation import Citation

RENDERER_PAPERS = (
    Citation(
        key="triplaneturbo",
        title="Progressive Rendering Distillation: Adapting Stable Diffusion for Instant Text-to-Mesh Generation without "
        "3D Data",
        authors="Zhiyuan Ma and Xinyue Liang and Rongyuan Wu and Xiangyu Zhu and Zhen Lei and Lei Zhang",
        year=2025,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2503.21694",
    ),
    Citation(
        key="nerf",
        title="NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis",
        authors="Ben Mildenhall and Pratul P. Srinivasan and Matthew Tancik and Jonathan T. Barron and Ravi Ramamoorthi "
        "and Ren Ng",
        year=2020,
        venue="European Conference on Computer Vision (ECCV)",
        arxiv="2003.08934",
    ),
    Citation(
        key="instant_ngp",
        title="Instant Neural Graphics Primitives with a Multiresolution Hash Encoding",
        authors='Thomas M{\\"u}ller and Alex Evans and Christoph Schied and Alexander Keller',
        year=2022,
        venue="ACM Transactions on Graphics",
        arxiv="2201.05989",
    ),
    Citation(
        key="mipnerf360",
        title="Mip-NeRF 360: Unbounded Anti-Aliased Neural Radiance Fields",
        authors="Jonathan T. Barron and Ben Mildenhall and Dor Verbin and Pratul P. Srinivasan and Peter Hedman",
        year=2022,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2111.12077",
    ),
    Citation(
        key="neus",
        title="NeuS: Learning Neural Implicit Surfaces by Volume Rendering for Multi-view Reconstruction",
        authors="Peng Wang and Lingjie Liu and Yuan Liu and Christian Theobalt and Taku Komura and Wenping Wang",
        year=2021,
        venue="Advances in Neural Information Processing Systems (NeurIPS)",
        arxiv="2106.10689",
    ),
    Citation(
        key="volsdf",
        title="Volume Rendering of Neural Implicit Surfaces",
        authors="Lior Yariv and Jiatao Gu and Yoni Kasten and Yaron Lipman",
        year=2021,
        venue="Advances in Neural Information Processing Systems (NeurIPS)",
        arxiv="2106.12052",
    ),
    Citation(
        key="nerfacc",
        title="NerfAcc: Efficient Sampling Accelerates NeRFs",
        authors="Ruilong Li and Hang Gao and Matthew Tancik and Angjoo Kanazawa",
        year=2023,
        venue="IEEE/CVF International Conference on Computer Vision (ICCV)",
        arxiv="2305.04966",
    ),
    Citation(
        key="dmtet",
        title="Deep Marching Tetrahedra: a Hybrid Representation for High-Resolution 3D Shape Synthesis",
        authors="Tianchang Shen and Jun Gao and Kangxue Yin and Ming-Yu Liu and Sanja Fidler",
        year=2021,
        venue="Advances in Neural Information Processing Systems (NeurIPS)",
        arxiv="2111.04276",
    ),
    Citation(
        key="flexicubes",
        title="Flexible Isosurface Extraction for Gradient-Based Mesh Optimization",
        authors="Tianchang Shen and Jacob Munkberg and Jon Hasselgren and Kangxue Yin and Zian Wang and Wenzheng Chen and "
        "Zan Gojcic and Sanja Fidler and Nicholas Sharp and Jun Gao",
        year=2023,
        venue="ACM Transactions on Graphics",
        arxiv="2308.05371",
    ),
    Citation(
        key="nvdiffrast",
        title="Modular Primitives for High-Performance Differentiable Rendering",
        authors="Samuli Laine and Janne Hellsten and Tero Karras and Yeongho Seol and Jaakko Lehtinen and Timo Aila",
        year=2020,
        venue="ACM Transactions on Graphics",
        arxiv="2011.03277",
    ),
    Citation(
        key="magic3d",
        title="Magic3D: High-Resolution Text-to-3D Content Creation",
        authors="Chen-Hsuan Lin and Jun Gao and Luming Tang and Towaki Takikawa and Xiaohui Zeng and Xun Huang and Karsten "
        "Kreis and Sanja Fidler and Ming-Yu Liu and Tsung-Yi Lin",
        year=2023,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2211.10440",
    ),
    Citation(
        key="latent_nerf",
        title="Latent-NeRF for Shape-Guided Generation of 3D Shapes and Textures",
        authors="Gal Metzer and Elad Richardson and Or Patashnik and Raja Giryes and Daniel Cohen-Or",
        year=2023,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        arxiv="2211.07600",
    ),
    Citation(
        key="fantasia3d",
        title="Fantasia3D: Disentangling Geometry and Appearance for High-quality Text-to-3D Content Creation",
        authors="Rui Chen and Yongwei Chen and Ningxin Jiao and Kui Jia",
        year=2023,
        venue="IEEE/CVF International Conference on Computer Vision (ICCV)",
        arxiv="2303.13873",
    ),
    Citation(
        key="textmesh",
        title="TextMesh: Generation of Realistic 3D Meshes From Text Prompts",
        authors="Christina Tsalicoglou and Fabian Manhardt and Alessio Tonioni and Michael Niemeyer and Federico Tombari",
        year=2024,
        venue="International Conference on 3D Vision (3DV)",
        arxiv="2304.12439",
    ),
    Citation(
        key="diffvg",
        title="Differentiable Vector Graphics Rasterization for Editing and Learning",
        authors="Tzu-Mao Li and Michal Luk{\\'a}{\\v c} and Micha{\\\"e}l Gharbi and Jonathan Ragan-Kelley",
        year=2020,
        venue="ACM Transactions on Graphics",
    ),
    Citation(
        key="three_doodle",
        title="3Doodle: Compact Abstraction of Objects with 3D Strokes",
        authors="Changwoon Choi and Jaeah Lee and Jaesik Park and Young Min Kim",
        year=2024,
        venue="ACM Transactions on Graphics",
        arxiv="2402.03690",
    ),
    Citation(
        key="diff3ds",
        title="Diff3DS: Generating View-Consistent 3D Sketch via Differentiable Curve Rendering",
        authors="Yibo Zhang and Lihong Wang and Changqing Zou and Tieru Wu and Rui Ma",
        year=2024,
        arxiv="2405.15305",
    ),
    Citation(
        key="viewcraft3d",
        title="ViewCraft3D: High-Fidelity and View-Consistent 3D Vector Graphics Synthesis",
        authors="Chuang Wang and Haitao Zhou and Ling Luo and Qian Yu",
        year=2025,
        arxiv="2505.19492",
    ),
    Citation(
        key="four_doodle",
        title="4-Doodle: Text to 3D Sketches that Move!",
        authors="Hao Chen and Jiaqi Wang and Yonggang Qi and Ke Li and Kaiyue Pang and Yi-Zhe Song",
        year=2025,
        arxiv="2510.25319",
    ),
    Citation(
        key="live_sketch",
        title="Breathing Life Into Sketches Using Text-to-Video Priors",
        authors="Rinon Gal and Yael Vinker and Yuval Alaluf and Amit H. Bermano and Daniel Cohen-Or and Ariel Shamir "
        "and Gal Chechik",
        year=2024,
        arxiv="2311.13608",
    ),
)
"""Renderers, and the staged systems that are made of them."""
