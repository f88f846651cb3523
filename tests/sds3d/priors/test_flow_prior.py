"""Rectified-flow priors on tiny random SD3 and FLUX folders, against the diffusers pipelines they were saved from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import AssetError, ShapeError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.flow import (
    FAMILIES,
    FlowPrior,
    pack_latents,
    position_ids,
    read_flow_levels,
    unpack_latents,
)
from sds3d.priors.noise_levels import flow_levels
from sds3d.priors.open import open_prior
from sds3d.prompts import Prompt

CLIP_TOKENS = 12
T5_TOKENS = 16
WIDTH = 40  # wider than the two CLIP encoders together (32), so that filling up is seen
KINDS = ("sd3", "sd3-no-t5", "flux-dev", "flux-schnell")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def t5_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)


def t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=30, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def clip_encoder(kind: Any, **settings: Any) -> Any:
    from transformers import CLIPTextConfig

    common = {"vocab_size": 54, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    ids = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    return kind(CLIPTextConfig(**common, **ids, num_hidden_layers=2, max_position_embeddings=CLIP_TOKENS, **settings))


def sd3_pipeline(parts: dict[str, Any], with_t5: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts["vae"],
        text_encoder=clip_encoder(CLIPTextModelWithProjection, projection_dim=8),
        tokenizer=parts["tokenizer"],
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, projection_dim=12),
        tokenizer_2=parts["tokenizer"],
        text_encoder_3=t5_encoder() if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux_pipeline(parts: dict[str, Any], is_distilled: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=is_distilled,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=is_distilled),
        vae=parts["vae"],
        text_encoder=clip_encoder(CLIPTextModel),
        tokenizer=parts["tokenizer"],
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


@pytest.fixture(scope="module")
def pipelines(kl_folder: Path) -> dict[str, Any]:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    vae = AutoencoderKL.from_pretrained(kl_folder / "vae").eval()
    parts = {
        "vae": vae,
        "tokenizer": CLIPTokenizer.from_pretrained(kl_folder / "tokenizer", model_max_length=CLIP_TOKENS),
    }
    torch.manual_seed(0)  # diffusers initialises from the global generator only
    made = {
        "sd3": sd3_pipeline(parts, with_t5=True),
        "sd3-no-t5": sd3_pipeline(parts, with_t5=False),
        "flux-dev": flux_pipeline(parts, is_distilled=True),
        "flux-schnell": flux_pipeline(parts, is_distilled=False),
    }
    for pipeline in made.values():
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipeline.set_progress_bar_config(disable=True)
        torch.nn.init.normal_(pipeline.transformer.proj_out.weight, std=0.5)
    return made


@pytest.fixture(scope="module")
def folders(pipelines: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pipelines as diffusers writes them, with the length of the T5 sequence and the size of pictures beside."""
    root = tmp_path_factory.mktemp("flow")
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(root / name)
        (root / name / "sds3d.json").write_text(json.dumps({"image_size": 32, "text_tokens": T5_TOKENS}))
    return {name: root / name for name in pipelines}


@pytest.fixture(scope="module")
def priors(folders: dict[str, Path]) -> dict[str, FlowPrior]:
    return {name: FlowPrior.from_folder(folder) for name, folder in folders.items()}


def told(network: Any, ask: Callable[[], object]) -> dict[str, Tensor]:
    """Return the tensors the network is given, by name, in the one call `ask` makes."""
    calls: list[dict[str, Tensor]] = []

    def note(module: object, inputs: object, given: dict[str, Any]) -> None:
        calls.append({name: value for name, value in given.items() if isinstance(value, Tensor)})

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        ask()
    finally:
        handle.remove()
    assert len(calls) == 1
    return calls[0]


def pipeline_step(pipeline: Any, z: Tensor, t: int) -> Tensor:
    """Return the result of one Euler step of the whole pipeline from level u = (t + 1) / 1000 (then shifted) to 0."""
    is_flux = "Flux" in type(pipeline).__name__
    latents = pack_latents(z) if is_flux else z
    answer = pipeline(
        "a red mug",
        sigmas=[(t + 1) / 1000],
        num_inference_steps=1,
        guidance_scale=3.5 if is_flux else 1.0,
        latents=latents,
        height=32,
        width=32,
        max_sequence_length=T5_TOKENS,
        output_type="latent",
        return_dict=False,
    )[0]
    return unpack_latents(answer, 4, 4) if is_flux else answer


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_the_step_of_the_diffusers_pipeline(
    kind: str, pipelines: dict[str, Any], priors: dict[str, FlowPrior]
) -> None:
    """Text, time, packing, position ids and guidance embedding: all the network is told is what the pipeline tells."""
    prior, z, t = priors[kind], draw(1, 4, 8, 8, seed=1), 600
    query = Query(z_t=z, t=torch.tensor([t]), text=prior.text(["a red mug"]))
    ours = told(prior.transformer, lambda: prior.predict([query]))
    stepped: list[Tensor] = []
    theirs = told(pipelines[kind].transformer, lambda: stepped.append(pipeline_step(pipelines[kind], z, t)))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-4 if name == "timestep" else 1e-6, rtol=1e-6)
    alpha, sigma = prior.alpha_sigma(query.t)
    clean = (z - sigma * prior.predict([query])[0]) / alpha  # one Euler step to level 0 ends at the clean estimate
    torch.testing.assert_close(clean, stepped[0], atol=1e-5, rtol=1e-4)
    assert (clean - z).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_predict_is_the_noise_form_of_the_velocity(kind: str, priors: dict[str, FlowPrior]) -> None:
    prior = priors[kind]
    query = Query(z_t=draw(3, 4, 8, 8), t=torch.tensor([20, 500, 999]), text=prior.text(["a car", "", "a mug"]))
    (epsilon,), velocity = prior.predict([query]), prior.output(query)
    _, sigma = prior.alpha_sigma(query.t)
    torch.testing.assert_close(epsilon, query.z_t + (1 - sigma) * velocity)
    assert torch.equal(epsilon[2], query.z_t[2]), "at the last time a sample is all noise"
    assert epsilon.dtype == torch.float32 and not epsilon.requires_grad


@pytest.mark.parametrize("kind", ["sd3", "flux-schnell"])
def test_recipes_find_the_family_by_the_folder(
    kind: str, folders: dict[str, Path], priors: dict[str, FlowPrior]
) -> None:
    opened = open_prior(folders[kind])
    assert isinstance(opened, FlowPrior) and opened.family is priors[kind].family
    query = Query(z_t=draw(1, 4, 8, 8), t=torch.tensor([400]), text=opened.text(["a mug"]))
    assert torch.equal(opened.predict([query])[0], priors[kind].predict([query])[0])


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_one_call_answers_all_queries_and_text_matters(kind: str, priors: dict[str, FlowPrior]) -> None:
    prior = priors[kind]
    t, z = torch.tensor([300, 800]), draw(2, 4, 8, 8)
    queries = [Query(z_t=z, t=t, text=prior.text([text] * 2)) for text in ("a red mug", "", "a car")]
    apart = [prior.predict([query])[0] for query in queries]
    told(prior.transformer, lambda: prior.predict(queries))
    for one, other in zip(apart, prior.predict(queries), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert (apart[0] - apart[1]).abs().max() > 1e-4 and (apart[0] - apart[2]).abs().max() > 1e-4


def test_tokens_are_rows_of_both_encoders_with_pooled_vectors_behind(priors: dict[str, FlowPrior]) -> None:
    sd3, bare, flux = (priors[kind].text(["a mug"]) for kind in ("sd3", "sd3-no-t5", "flux-dev"))
    assert sd3.shape == (1, CLIP_TOKENS + T5_TOKENS + 1, WIDTH) and flux.shape == (1, T5_TOKENS + 1, WIDTH)
    assert bare.shape == sd3.shape and bare[:, CLIP_TOKENS : CLIP_TOKENS + T5_TOKENS].abs().max() == 0
    assert sd3[:, :CLIP_TOKENS, 32:].abs().max() == 0, "CLIP's tokens are filled up to T5's width"
    assert sd3[:, -1, 20:].abs().max() == 0 and sd3[:, -1, :20].abs().min() > 0
    assert flux[:, -1, 16:].abs().max() == 0


def test_texts_do_not_depend_on_company_and_encoders_can_be_forgotten(folders: dict[str, Path]) -> None:
    prior = FlowPrior.from_folder(folders["sd3"])
    together = prior.text(["a mug", "", "\u00fcber \ud800 cup"])
    prior.free_text_encoders()
    assert torch.equal(prior.text(["", "a mug"]), together[[1, 0]]) and not prior.words.networks
    assert torch.equal(FlowPrior.from_folder(folders["sd3"]).text(["a mug"])[0], together[0])


def test_a_prompt_longer_than_t5_reads_is_cut_with_a_warning_that_names_the_words(priors: dict[str, FlowPrior]) -> None:
    with pytest.warns(UserWarning, match="longer than the 16 tokens.*'tail end'"):
        priors["flux-dev"].text(["one two three tail end"])


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_scaled_and_shifted(kind: str, priors: dict[str, FlowPrior], pipelines: dict[str, Any]) -> None:
    prior, vae = priors[kind], pipelines[kind].vae
    rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    z0 = prior.encode(rgb)
    raw = vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(z0, 0.7 * (raw - 0.1))  # scaling_factor and shift_factor of the folder
    (gradient,) = torch.autograd.grad(z0.sum(), rgb)
    assert gradient.abs().max() > 0
    expected = vae.decode(z0 / 0.7 + 0.1).sample.permute(0, 2, 3, 1) / 2 + 0.5  # as the pipelines decode
    torch.testing.assert_close(prior.decode(z0), expected, atol=1e-5, rtol=1e-5)


def test_levels_are_those_of_the_diffusers_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    sigmas = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.flip(0)
    torch.testing.assert_close(read_flow_levels({"shift": 3.0}, 4096).sigma, sigmas, atol=1e-6, rtol=1e-6)
    assert torch.equal(read_flow_levels({"shift": 1.0}, 4096).sigma, flow_levels().sigma)


@pytest.mark.parametrize("shape", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_dynamic_shift_is_what_the_flux_pipeline_computes(tokens: int, shape: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=shape)
    u = torch.arange(1, 1001) / 1000
    scheduler.set_timesteps(sigmas=u.flip(0).tolist(), mu=calculate_shift(tokens))
    levels = read_flow_levels(dict(scheduler.config), tokens)
    torch.testing.assert_close(levels.sigma, scheduler.sigmas[:-1].flip(0), atol=1e-6, rtol=1e-5)


def test_the_shift_of_flux_at_its_own_size_is_exp_of_1_15() -> None:
    levels, wanted = read_flow_levels({"use_dynamic_shifting": True}, 4096), flow_levels(shift=math.exp(1.15))
    torch.testing.assert_close(levels.sigma, wanted.sigma)


def test_packing_is_that_of_the_pipeline_and_can_be_undone() -> None:
    from diffusers import FluxPipeline

    z = draw(2, 4, 6, 8)
    packed = pack_latents(z)
    assert torch.equal(packed, FluxPipeline._pack_latents(z, 2, 4, 6, 8))
    assert torch.equal(unpack_latents(packed, 3, 4), z)
    assert torch.equal(position_ids(3, 4), FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32))


def test_the_table_says_what_the_pipelines_assume() -> None:
    sd3, flux = FAMILIES["SD3Transformer2DModel"], FAMILIES["FluxTransformer2DModel"]
    assert (sd3.time_scale, sd3.reading.t5_tokens, sd3.packs) == (1000.0, 256, False)
    assert (flux.time_scale, flux.reading.t5_tokens, flux.packs) == (1.0, 512, True)


def test_the_embedded_scale_reaches_distilled_networks_only(folders: dict[str, Path]) -> None:
    answers = []
    for kind in ("flux-dev", "flux-schnell"):
        weak, strong = (FlowPrior.from_folder(folders[kind], embedded_scale=scale) for scale in (1.0, 30.0))
        query = Query(z_t=draw(1, 4, 8, 8), t=torch.tensor([400]), text=weak.text(["a car"]))
        assert weak.is_guidance_distilled == (kind == "flux-dev")
        answers.append((weak.predict([query])[0] - strong.predict([query])[0]).abs().max())
    assert answers[0] > 1e-5 and answers[1] == 0


def test_another_picture_size_changes_latents_and_dynamic_shift(folders: dict[str, Path]) -> None:
    small, large = (FlowPrior.from_folder(folders["flux-dev"], image_size=size) for size in (16, 64))
    assert small.encode(torch.rand(1, 8, 8, 3)).shape == (1, 4, 4, 4) and large.image_size == 64
    assert small.levels.sigma[500] < large.levels.sigma[500], "larger pictures need more noise"
    for kind in ("flux-dev", "sd3"):
        with pytest.raises(ShapeError, match=r"latents has shape \[5, 5\].*multiples of 2 \(choose another image_size"):
            FlowPrior.from_folder(folders[kind], image_size=20)


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_bfloat16_networks_answer_in_float32_near_the_float32_ones(
    kind: str, folders: dict[str, Path], priors: dict[str, FlowPrior]
) -> None:
    low = FlowPrior.from_folder(folders[kind], dtype=torch.bfloat16)
    answers = []
    for prior in (low, priors[kind]):
        query = Query(z_t=draw(2, 4, 8, 8), t=torch.tensor([300, 800]), text=prior.text(["a mug"] * 2))
        answers.append(prior.predict([query])[0])
    assert answers[0].dtype == torch.float32
    assert (answers[0] - answers[1]).norm() / answers[1].norm() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_guidance_step_makes_a_finite_gradient(kind: str, priors: dict[str, FlowPrior]) -> None:
    guide = Guidance(priors[kind], METHODS["rfds"].config(), 10)
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss, _ = guide(
        rgb, Prompt(text="a mug", view_dependent=False), turntable(2, 16), 0, torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_guidance_step_never_waits_for_the_device(kind: str, folders: dict[str, Path]) -> None:
    prior = FlowPrior.from_folder(folders[kind], device="meta")
    config = METHODS["rfds"].config.model_validate({"non_finite": "replace"})
    rgb = torch.rand(2, 16, 16, 3, device="meta").requires_grad_()
    loss, _ = Guidance(prior, config, 10)(
        rgb, Prompt(text="a", view_dependent=False), turntable(2, 16), 0, torch.Generator().manual_seed(0)
    )
    assert loss.device.type == "meta"


@pytest.mark.parametrize(
    ("kind", "file", "key", "value", "message"),
    [
        ("sd3", "transformer/config.json", "_class_name", "PixArtTransformer2DModel", "needs a SD3Transf.* or Flux"),
        ("sd3", "vae/config.json", "_class_name", "AutoencoderTiny", "needs an AutoencoderKL"),
        ("sd3", "scheduler/scheduler_config.json", "_class_name", "DDIMScheduler", "needs a FlowMatchEuler"),
        ("flux-dev", "model_index.json", "text_encoder_2", [None, None], "no text_encoder_2.*FLUX"),
        ("sd3", "model_index.json", "text_encoder_2", [None, None], "no text_encoder_2.*Stable Diffusion 3"),
        ("flux-dev", "model_index.json", "_class_name", "FluxFillPipeline", "FluxFillPipeline.*text-to-image"),
        ("sd3", "transformer/config.json", "num_layers", 3, "transformer of the prior .* cannot be loaded"),
    ],
)
def test_foreign_folders_are_refused(
    folders: dict[str, Path], tmp_path: Path, kind: str, file: str, key: str, value: object, message: str
) -> None:
    shutil.copytree(folders[kind], tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / file).read_text())
    (tmp_path / "copy" / file).write_text(json.dumps(config | {key: value}))
    with pytest.raises(AssetError, match=message):
        FlowPrior.from_folder(tmp_path / "copy")


def test_a_stable_diffusion_folder_is_refused_by_what_it_lacks(kl_folder: Path) -> None:
    with pytest.raises(AssetError, match=r"parts .*unet.* and no transformer, but a flow prior needs"):
        FlowPrior.from_folder(kl_folder)
