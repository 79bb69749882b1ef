"""Kinds of scorers for any model, KIND:MODEL: what each reads and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ..errors import NbenchError
from ..shards.schema import LatentSpace
from .placement import Placement
from .protocols import Reads, Scorer
from .weights import file_name


@dataclass(frozen=True)
class Family:
    """Scorers for any model of one kind, FAMILY:MODEL; `about` describes the kind, the rest is as in `Builtin`."""

    load: Callable[[str, LatentSpace, Placement], Scorer]
    model: str
    reads: Reads
    range: str
    about: str
    paper: str = ""
    package: str = ""


REREADINGS = {"preview": "preview", "x0-preview": "x0_preview", "x0-image": "x0_image", "image": "image"}
"""The prefixes of READS:SCORER, for any scorer of images."""


def _any_clip(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(model, file_name(model), placement=placement)


def _latentclip(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .latent_rewards.latent_clip import PublishedLatentCLIPScorer, published_config

    if published_config(model):
        return PublishedLatentCLIPScorer(model, space, f"latentclip-{file_name(model)}", placement)
    scorer = _any_clip(model, space, placement)
    if scorer.reads != "latent":
        raise NbenchError(f"latentclip:{model} reads RGB: name a model that reads latents")
    return scorer


def _any_vqa(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    if model.startswith(("http://", "https://")):
        from .vqa_endpoint import EndpointVQAScorer

        return EndpointVQAScorer(model)
    from .vqascore import vqa_scorer

    source, _, settings = model.partition("?")
    options = dict(parse_qsl(settings, keep_blank_values=True))
    if unknown := sorted(options.keys() - {"answer", "question"}):
        raise NbenchError(f"vqascore has no option {unknown[0]}: there are ?answer=yes, ?answer=end and ?question=t2v")
    name = "-".join(["vqascore", file_name(source), *options.values()])
    return vqa_scorer(source, name, placement, **options)


def _any_itm(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .blip import BLIPMatchScorer

    return BLIPMatchScorer(model, f"blip-itm-{file_name(model)}", placement)


def _any_pickscore(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(model, f"pickscore-{file_name(model)}", "image", placement, scaled=True)


def _any_imagereward(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .image_reward import NativeImageRewardScorer

    return NativeImageRewardScorer(model, f"imagereward-{file_name(model)}", placement)


def _open_clip(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .open_clip import OpenCLIPScorer

    name, weights = (
        (model, None) if model.startswith("hf-hub:") else model.split(":", 1) if ":" in model else (model, None)
    )
    return OpenCLIPScorer(name, weights, f"open_clip-{file_name(model)}", placement=placement)


def _attention(layer: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .baselines import AttentionFocusScorer

    return AttentionFocusScorer(layer)


def _probe(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .probe import open_probe

    return open_probe(model, file_name(model), placement)


def _any_oracle(reference: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .baselines import OracleScorer

    return OracleScorer(reference)


def _dina_lrm(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .latent_rewards.dina_lrm import DiNaLRMScorer

    return DiNaLRMScorer(model, space, f"dina-lrm-{file_name(model)}", placement)


def _lrm(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .latent_rewards.lrm import LRMScorer

    return LRMScorer(model, space, f"lrm-{file_name(model)}", placement)


def _probe_select(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .latent_rewards.probe_select import ProbeSelectScorer

    return ProbeSelectScorer(model, space, f"probe-select-{file_name(model)}", placement)


def _elsewhere(way: str) -> Callable[[str, LatentSpace, Placement], Scorer]:
    """The scorers of a function of `environments.ways`."""

    def load(rest: str, space: LatentSpace, placement: Placement) -> Scorer:
        from .environments import ways

        scorer: Scorer = getattr(ways, way)(rest, space, placement)
        return scorer

    return load


FAMILIES = {
    "latentclip": Family(
        _latentclip, "folder or Hub id", "latent", "-1..1", "a CLIP whose first layer takes latents", "arXiv 2503.08455"
    ),
    "dina-lrm": Family(
        _dina_lrm,
        "folder or Hub id",
        "latent",
        "any",
        "DiNa-LRM: layers of SD3.5 Medium and a head",
        "arXiv 2602.11146",
    ),
    "lrm": Family(
        _lrm,
        "folder or Hub id",
        "latent",
        "cosine times scale",
        "LRM: the U-Net of SD 1.5 or SDXL as a CLIP",
        "arXiv 2502.01051",
    ),
    "probe-select": Family(
        _probe_select, "folder", "latent", "0..1", "ProbeSelect: a head on a block of SD3.5", "arXiv 2603.02829"
    ),
    "attention": Family(
        _attention,
        "LAYER",
        "attention:LAYER",
        "-1..0",
        "focus of a layer's attention to the prompt's tokens, without a model",
        "after arXiv 2604.20354",
    ),
    "probe": Family(
        _probe,
        "folder",
        "activations:LAYER",
        "any",
        "a head on activations, of `nbench train probe`",
        "after arXiv 2603.02829",
    ),
    "vqascore": Family(
        _any_vqa,
        "MODEL[?answer=end]",
        "image",
        "0..1",
        "P(yes) of any image-text-to-text or BLIP VQA model, or at URL#MODEL; ?answer=end: of Yes and end",
        "arXiv 2404.01291",
    ),
    "blip-itm": Family(
        _any_itm,
        "folder or Hub id",
        "image",
        "0..1",
        "P(match) of any BLIP for image-text retrieval",
        "arXiv 2201.12086",
    ),
    "pickscore": Family(
        _any_pickscore,
        "folder or Hub id",
        "image",
        "cosine times scale",
        "scaled cosine of any CLIP-like model",
        "arXiv 2305.01569",
    ),
    "imagereward": Family(
        _any_imagereward,
        "folder or Hub id",
        "image",
        "about -3..3",
        "ImageReward, of a folder in the published layout",
        "arXiv 2304.05977",
    ),
    "open_clip": Family(
        _open_clip, "MODEL[:WEIGHTS]", "preview", "-1..1", "any model of the package open_clip", package="open_clip"
    ),
    "t2v": Family(
        _elsewhere("t2v_scorer"),
        "MODEL",
        "image",
        "0..1",
        "t2v_metrics in its environment (`nbench env t2v_metrics`)",
        "arXiv 2404.01291",
        "t2v_metrics",
    ),
    "env": Family(
        _elsewhere("env_scorer"),
        "NAME[:MODEL]",
        "image",
        "the package's",
        "a package in its environment, of `nbench env`",
    ),
    "python": Family(
        _elsewhere("python_scorer"),
        "PYTHON:FACTORY",
        "the scorer's",
        "the scorer's",
        "FILE.py:CLASS under another Python",
    ),
    "uv": Family(
        _elsewhere("uv_scorer"), "FACTORY", "the scorer's", "the scorer's", "a script's class; uv makes its environment"
    ),
    "http": Family(
        _elsewhere("http_scorer"), "URL[+URL]", "the scorer's", "the scorer's", "servers of `nbench serve-scorer`"
    ),
    "oracle": Family(
        _any_oracle,
        "REFERENCE",
        "reference:NAME",
        "the reference's",
        "a reference of the bench itself",
    ),
}
