"""The built-in scorers: what each reads, its weights and its paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NbenchError
from ..shards.schema import LatentSpace
from .placement import Placement
from .protocols import Reads, Scorer, reread
from .weights import file_name

SHAPES_LATENT = (4, 16, 16)
_WEIGHTS = Path(__file__).parent.parent / "shapes" / "weights"
_CLIP, _SIGLIP = "openai/clip-vit-base-patch32", "google/siglip-base-patch16-224"
_VQA, _ITM, _PICKSCORE = "Salesforce/blip-vqa-base", "Salesforce/blip-itm-base-coco", "yuvalkirstain/PickScore_v1"
_PICKSCORE_TEXTS = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True)
class Builtin:
    """A named scorer. weights: shapes (shipped), a Hub id, or none; size: parameters; higher scores are better."""

    reads: Reads
    load: Callable[[LatentSpace, Placement], Scorer]
    weights: str
    size: str
    range: str
    paper: str
    package: str = ""


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


def fitting(weights: str, space: LatentSpace) -> Path:
    """The shipped weights that fit a latent space.

    Raises:
        NbenchError: there are none.
    """
    if not _is_shapes(space):
        shape, shipped = ("x".join(map(str, sizes)) for sizes in (space.latent_shape, SHAPES_LATENT))
        raise NbenchError(
            f"no {weights} weights fit latents of {shape}: the shipped ones fit {shipped} (pipeline shapes); "
            "name the folder or Hub id of a CLIPModel instead"
        )
    return _WEIGHTS / weights


def _is_shapes(space: LatentSpace) -> bool:
    return tuple(space.latent_shape) == SHAPES_LATENT


def _clip(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(fitting("clip", space) if _is_shapes(space) else _CLIP, placement=placement)


def _image_clip(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(fitting("clip", space) if _is_shapes(space) else _CLIP, "image-clip", "image", placement)


def _noisyclip(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(fitting("noisyclip", space), "noisyclip", placement=placement)


def _noisyclip_t(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(fitting("noisyclip-t", space), "noisyclip-t", placement=placement)


def _vqascore(space: LatentSpace, placement: Placement) -> Scorer:
    from .vqascore import vqa_scorer

    return vqa_scorer(fitting("vqa", space) if _is_shapes(space) else _VQA, placement=placement)


def _on(load: Callable[[LatentSpace, Placement], Scorer], reads: Reads, name: str) -> Callable[..., Scorer]:
    def load_and_reread(space: LatentSpace, placement: Placement) -> Scorer:
        return reread(load(space, placement), reads, name)

    return load_and_reread


def _siglip(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(_SIGLIP, "siglip", placement=placement)


def _pickscore(space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(_PICKSCORE, "pickscore", "image", placement, processor=_PICKSCORE_TEXTS, scaled=True)


def _hpsv2(space: LatentSpace, placement: Placement) -> Scorer:
    from .open_clip import hpsv2

    return hpsv2(placement)


def _imagereward(space: LatentSpace, placement: Placement) -> Scorer:
    from .external import ImageRewardScorer

    return ImageRewardScorer(placement)


def _blip_itm(space: LatentSpace, placement: Placement) -> Scorer:
    from .blip import BLIPMatchScorer

    return BLIPMatchScorer(_ITM, placement=placement)


def _cfg_gap(space: LatentSpace, placement: Placement) -> Scorer:
    from .baselines import GuidanceGapScorer

    return GuidanceGapScorer()


def _random(space: LatentSpace, placement: Placement) -> Scorer:
    from .baselines import RandomScorer

    return RandomScorer()


def _truth(space: LatentSpace, placement: Placement) -> Scorer:
    from .truth import TruthScorer

    return TruthScorer(space)


def _oracle(reference: str) -> Scorer:
    from .baselines import OracleScorer

    return OracleScorer(reference)


BUILTIN = {
    "clip": Builtin("preview", _clip, f"shapes; else {_CLIP}", "1.9 M; 151 M", "-1..1", "arXiv 2103.00020"),
    "image:clip": Builtin("image", _image_clip, f"shapes; else {_CLIP}", "1.9 M; 151 M", "-1..1", "arXiv 2103.00020"),
    "siglip": Builtin("preview", _siglip, _SIGLIP, "203 M", "-1..1", "arXiv 2303.15343"),
    "noisyclip": Builtin("preview", _noisyclip, "shapes", "1.9 M", "-1..1", "arXiv 2512.08505"),
    "noisyclip-t": Builtin(
        "latent", _noisyclip_t, "shapes", "2.0 M", "-1..1", "arXiv 2512.08505, on latents, noise level known"
    ),
    "x0-clip": Builtin(
        "x0_preview",
        _on(_clip, "x0_preview", "x0-clip"),
        f"shapes; else {_CLIP}",
        "1.9 M; 151 M",
        "-1..1",
        "arXiv 2511.22242 (x0 estimates)",
    ),
    "x0-noisyclip": Builtin(
        "x0_preview",
        _on(_noisyclip, "x0_preview", "x0-noisyclip"),
        "shapes",
        "1.9 M",
        "-1..1",
        "arXiv 2512.08505, on x0 estimates",
    ),
    "x0-image": Builtin(
        "x0_image",
        _on(_clip, "x0_image", "x0-image"),
        f"shapes; else {_CLIP}",
        "1.9 M; 151 M",
        "-1..1",
        "arXiv 2511.22242 (its untuned baseline)",
    ),
    "vqascore": Builtin("image", _vqascore, f"shapes; else {_VQA}", "2.6 M; 385 M", "0..1", "arXiv 2404.01291"),
    "pickscore": Builtin("image", _pickscore, _PICKSCORE, "986 M", "-100..100", "arXiv 2305.01569"),
    "hpsv2": Builtin("image", _hpsv2, "xswu/HPSv2", "986 M", "-1..1", "arXiv 2306.09341", "open_clip"),
    "imagereward": Builtin(
        "image", _imagereward, "THUDM/ImageReward", "479 M", "about -3..3", "arXiv 2304.05977", "image-reward"
    ),
    "blip-itm": Builtin("image", _blip_itm, _ITM, "224 M", "0..1", "arXiv 2201.12086"),
    "truth": Builtin("image", _truth, "", "0", "0 or 1", ""),
    "cfg-gap": Builtin("cfg_gap", _cfg_gap, "", "0", "0..", "arXiv 2505.23343"),
    "random": Builtin("nothing", _random, "", "0", "0..1", ""),
    "oracle": Builtin("reference:clip", lambda space, placement: _oracle("clip"), "", "0", "the reference's", ""),
}

REREADINGS = {"preview": "preview", "x0-preview": "x0_preview", "x0-image": "x0_image", "image": "image"}
"""The prefixes of READS:SCORER, for any scorer of images."""


def _any_clip(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .clip import CLIPScorer

    return CLIPScorer(model, file_name(model), placement=placement)


def _latentclip(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    scorer = _any_clip(model, space, placement)
    if scorer.reads != "latent":
        raise NbenchError(f"latentclip:{model} reads RGB: name a model that reads latents")
    return scorer


def _any_vqa(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    if model.startswith(("http://", "https://")):
        from .vqa_endpoint import EndpointVQAScorer

        return EndpointVQAScorer(model)
    from .vqascore import vqa_scorer

    return vqa_scorer(model, f"vqascore-{file_name(model)}", placement)


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


def _probe(model: str, space: LatentSpace, placement: Placement) -> Scorer:
    from .probe import ProbeScorer

    return ProbeScorer(model, file_name(model), placement)


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
    "probe": Family(
        _probe,
        "folder",
        "activations:LAYER",
        "any",
        "a head on activations, of `nbench train probe`",
        "arXiv 2603.02829",
    ),
    "vqascore": Family(
        _any_vqa,
        "folder or Hub id",
        "image",
        "0..1",
        "P(yes) of any image-text-to-text or BLIP VQA model, or at URL#MODEL; CLIP-FlanT5's mean of Yes and end",
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
        "ImageReward without its package, of weights converted to safetensors",
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
        lambda model, space, placement: _oracle(model),
        "REFERENCE",
        "reference:NAME",
        "the reference's",
        "a reference of the bench itself",
    ),
}
