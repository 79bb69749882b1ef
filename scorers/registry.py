"""Scorers by name, Hub id, folder, class or plug-in; heavy imports happen only on construction."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ..errors import NbenchError, failure_of
from ..shards.schema import DatasetInfo, LatentSpace
from ..shards.signals import MAX_LOOK_AHEAD
from .builtin import BUILTIN
from .families import FAMILIES, REREADINGS
from .placement import Placement
from .protocols import Scorer, changed, checked_scorer, looking_ahead, reread
from .weights import file_name

GROUP = "nbench.scorers"
"""The entry-point group of scorers in installed packages: a class, or a function that returns one."""
_LOOK_AHEAD = re.compile(r"(x0-[a-z]+)@(\d{1,9})(:.+)?")
"""A scorer of x0 estimates that take several denoiser calls: x0-clip@2, x0-preview@3:SCORER."""


def scorer_names() -> list[str]:
    """The names of built-in scorers and installed plug-ins."""
    return sorted([*BUILTIN, *plugins()])


def get_scorer(
    name: str, info: DatasetInfo | LatentSpace, placement: Placement | None = None, load: bool = True
) -> Scorer:
    """Build the scorer called `name`, with weights that fit the latents of a bench or a pipeline.

    In this order: a name of `nbench models`; FAMILY:MODEL, as in vqascore:HUB-ID; READS:SCORER, as in x0-image:siglip,
    to make a scorer of images read another kind; FILE.py:CLASS or PACKAGE.MODULE:CLASS; the folder or Hub id of any
    transformers model with an image and a text tower. A name that begins with x0- may say how many denoiser calls an
    estimate takes, as x0-clip@2 or x0-image@3:siglip.

    Args:
        load: False leaves weights on disk until `loaded`, or the first score: enough for name, inputs and fingerprint.

    Raises:
        NbenchError: no such scorer, or none of its weights fit.
    """
    scorer = _find(name, info, placement or Placement.best())
    return loaded(scorer) if load else scorer


def loaded(scorer: Scorer) -> Scorer:
    """The scorer, with its weights in memory if it loads them late (by an optional method `load`).

    Raises:
        NbenchError: they cannot be loaded.
    """
    load = getattr(scorer, "load", None)
    if callable(load):
        try:
            load()
        except NbenchError:
            raise
        except Exception as error:  # a plug-in can raise any type
            raise NbenchError(f"scorer {scorer.name} cannot be loaded: {failure_of(error)}") from error
    return scorer


def _find(name: str, info: DatasetInfo | LatentSpace, placement: Placement) -> Scorer:
    if match := _LOOK_AHEAD.fullmatch(name):
        calls = int(match[2])
        if not 2 <= calls <= MAX_LOOK_AHEAD:
            raise NbenchError(f"model {name}: @{match[2]} is not 2 to {MAX_LOOK_AHEAD} denoiser calls; @1 is no suffix")
        return looking_ahead(_find(match[1] + (match[3] or ""), info, placement), calls)
    space = info.latent_space if isinstance(info, DatasetInfo) else info
    installed = plugins()
    if name in BUILTIN:
        return checked_scorer(BUILTIN[name].load(space, placement), name)
    if name in installed:
        return _construct(_load(installed[name]), name, info, placement)
    family, colon, rest = name.partition(":")
    if colon and rest:
        if family == "stack":
            from .stack import StackScorer

            return StackScorer(rest, file_name(rest), lambda model: _find(model, info, placement))
        if family in FAMILIES:
            return checked_scorer(FAMILIES[family].load(rest, space, placement), name)
        if family in REREADINGS:
            return reread(_find(rest, info, placement), REREADINGS[family], f"{family}-{file_name(rest)}")
        if family.endswith(".py") or re.fullmatch(r"[\w.]+:\w+", name):
            file = Path(family) if family.endswith(".py") else None
            return _construct(_imported(family, rest), name, info, placement, file)
    if "/" in name or Path(name).is_dir():
        from .clip import CLIPScorer

        return CLIPScorer(name, file_name(name), placement=placement)
    raise unknown("model", name, scorer_names(), " (or a folder, a Hub id, or MODULE:CLASS)")


def plugins() -> dict[str, EntryPoint]:
    """The entry points of installed packages by name.

    Raises:
        NbenchError: two scorers have the same name, or one has a built-in's name.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = "nbench" if point.name in BUILTIN else _origin(points[point.name]) if point.name in points else None
        if other is not None:
            raise NbenchError(f"two scorers are called {point.name}, from {other} and {_origin(point)}: uninstall one")
        points[point.name] = point
    return points


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # plug-in code can raise any type
        raise NbenchError(f"scorer {point.name} of {_origin(point)} cannot be imported: {failure_of(error)}") from error


def _imported(module: str, attribute: str) -> Any:
    try:
        if module.endswith(".py"):
            path = Path(module)
            if not path.is_file():
                raise NbenchError(f"no file {module}: give the path of one that defines {attribute}")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
        else:
            loaded = importlib.import_module(module)
    except NbenchError:
        raise
    except Exception as error:  # user code can raise any type
        raise NbenchError(f"{module} cannot be imported: {failure_of(error)}") from error
    if not hasattr(loaded, attribute):
        raise unknown("class", attribute, [name for name in vars(loaded) if not name.startswith("_")], f" in {module}")
    return getattr(loaded, attribute)


def _construct(
    maker: Any, name: str, info: DatasetInfo | LatentSpace, placement: Placement, file: Path | None = None
) -> Scorer:
    """Call a class or function with those of info, device and dtype that its signature names."""
    available = {"info": info, "device": placement.device, "dtype": placement.dtype}
    try:
        parameters = inspect.signature(maker).parameters
        scorer = maker(**{key: value for key, value in available.items() if key in parameters})
    except NbenchError:
        raise
    except Exception as error:  # user code can raise any type
        raise NbenchError(f"scorer {name} cannot be created: {failure_of(error)}") from error
    return _with_code(checked_scorer(scorer, name), maker, file)


def _with_code(scorer: Scorer, maker: Any, file: Path | None) -> Scorer:
    """Add a hash of the scorer's code to its fingerprint, since authors forget to change it."""
    try:
        code = hashlib.sha256((file or Path(inspect.getfile(maker))).read_bytes()).hexdigest()[:8]
    except (TypeError, OSError):  # not defined in a file
        return scorer
    if scorer.fingerprint.endswith(f"-{code}"):  # already added
        return scorer
    return changed(scorer, fingerprint=f"{scorer.fingerprint}-{code}")


def unknown(kind: str, name: str, names: list[str] | tuple[str, ...], other: str = "") -> NbenchError:
    """The error for a `name` that is not among `names`; `other` mentions further possibilities."""
    near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return NbenchError(f"unknown {kind} {name}{hint}: there are {', '.join(names)}{other}")
