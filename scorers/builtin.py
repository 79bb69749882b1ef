"""The scorers with a name: what each reads, its weights and its paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import NbenchError
from ..shards.schema import LatentSpace
from .placement import Placement
from .protocols import Reads, Scorer, reread

SHAPES_LATENT = (4, 16, 16)
_WEIGHTS = Path(__file__).parent.parent / "shapes" / "weights"
_CLIP, _SIGLIP = "openai/clip-vit-base-patch32", "google/siglip-base-patch16-224"
_VQA, _ITM, _PICKSCORE = "Salesforce/blip-vqa-base", "Salesforce/blip-itm-base-coco", "yuvalkirstain/PickScore_v1"
_IMAGEREWARD = "THUDM/ImageReward"
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
    from .image_reward import NativeImageRewardScorer

    return NativeImageRewardScorer(_IMAGEREWARD, placement=placement)


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


def _oracle(space: LatentSpace, placement: Placement) -> Scorer:
    from .baselines import OracleScorer

    return OracleScorer("clip")


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
    "imagereward": Builtin("image", _imagereward, _IMAGEREWARD, "479 M", "about -3..3", "arXiv 2304.05977"),
    "blip-itm": Builtin("image", _blip_itm, _ITM, "224 M", "0..1", "arXiv 2201.12086"),
    "truth": Builtin("image", _truth, "", "0", "0 or 1", ""),
    "cfg-gap": Builtin("cfg_gap", _cfg_gap, "", "0", "0..", "arXiv 2505.23343"),
    "random": Builtin("nothing", _random, "", "0", "0..1", ""),
    "oracle": Builtin("reference:clip", _oracle, "", "0", "the reference's", ""),
}
