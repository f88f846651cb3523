"""Prompts are read as the whole model reads them, without its networks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sds3d.config.prior import PriorConfig
from sds3d.config.shipped import shipped
from sds3d.generators.reader import PromptReader
from sds3d.priors.open import open_prior

pytestmark = pytest.mark.skipif(not shipped("assets", "priors", "toybox").is_dir(), reason="no bundled prior")
TEXTS = ["a red mug", "", "a red mug"]


def test_embeddings_and_noise_levels_are_those_of_the_prior() -> None:
    config = PriorConfig(dtype="bfloat16")
    reader, prior = PromptReader(config, torch.device("cpu")), open_prior(config)
    assert PromptReader.reads(config)
    assert torch.equal(reader.text(TEXTS), prior.text(TEXTS))
    assert torch.equal(reader.levels.alpha, prior.levels.alpha)  # type: ignore[attr-defined]


def test_reading_a_prompt_does_not_import_the_networks() -> None:
    program = (
        "import sys, torch; from sds3d.config.prior import PriorConfig; from sds3d.generators.reader import PromptReader; "
        "PromptReader(PriorConfig(), torch.device('cpu')).text(['a mug']); sys.exit('diffusers.models' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
