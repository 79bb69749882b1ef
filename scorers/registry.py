"""Scorers by name, Hub id, folder, class or plug-in; heavy imports only when one is made."""

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
from .builtin import BUILTIN, FAMILIES, REREADINGS
from .placement import Placement
from .protocols import Scorer, changed, checked_scorer, reread
from .weights import file_name

GROUP = "nbench.scorers"
"""The entry points by which an installed package brings scorers: a class, or a function that makes one."""


def scorer_names() -> list[str]:
    """The names that `get_scorer` knows, those of installed plug-ins too."""
    return sorted([*BUILTIN, *plugins()])


def get_scorer(name: str, info: DatasetInfo | LatentSpace, placement: Placement | None = None) -> Scorer:
    """The scorer that `name` stands for, with weights that fit the latents of a bench or of a pipeline.

    In this order: a name of `nbench models`; FAMILY:MODEL, as in vqascore:HUB-ID; READS:SCORER, as in x0-image:siglip,
    for a scorer of pictures that is to look at others; FILE.py:CLASS or PACKAGE.MODULE:CLASS; and the folder or Hub id
    of any model of transformers with an image and a text tower.

    Raises:
        NbenchError: no such scorer, or none of its weights fit.
    """
    placement = placement or Placement.best()
    space = info.latent_space if isinstance(info, DatasetInfo) else info
    found = plugins()
    if name in BUILTIN:
        return checked_scorer(BUILTIN[name].load(space, placement), name)
    if name in found:
        return _construct(_load(found[name]), name, info, placement)
    family, colon, rest = name.partition(":")
    if colon and rest:
        if family in FAMILIES:
            return checked_scorer(FAMILIES[family].load(rest, space, placement), name)
        if family in REREADINGS:
            return reread(get_scorer(rest, info, placement), REREADINGS[family], f"{family}-{file_name(rest)}")
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
        NbenchError: two bring a scorer of the same name, or one has the name of a built-in.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = "nbench" if point.name in BUILTIN else _origin(found[point.name]) if point.name in found else None
        if other is not None:
            raise NbenchError(f"two scorers are called {point.name}, of {other} and of {_origin(point)}: uninstall one")
        found[point.name] = point
    return found


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # a plug-in's own code
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
    except Exception as error:  # somebody's own code
        raise NbenchError(f"{module} cannot be imported: {failure_of(error)}") from error
    if not hasattr(loaded, attribute):
        raise unknown("class", attribute, [name for name in vars(loaded) if not name.startswith("_")], f" in {module}")
    return getattr(loaded, attribute)


def _construct(
    maker: Any, name: str, info: DatasetInfo | LatentSpace, placement: Placement, file: Path | None = None
) -> Scorer:
    """Call a class or function with what it asks for by name: info (of a bench or a pipeline), device, dtype."""
    offered = {"info": info, "device": placement.device, "dtype": placement.dtype}
    try:
        taken = inspect.signature(maker).parameters
        made = maker(**{key: value for key, value in offered.items() if key in taken})
    except NbenchError:
        raise
    except Exception as error:  # somebody's own code
        raise NbenchError(f"scorer {name} cannot be made: {failure_of(error)}") from error
    return _with_code(checked_scorer(made, name), maker, file)


def _with_code(scorer: Scorer, maker: Any, file: Path | None) -> Scorer:
    """The scorer, with the code that makes it in its fingerprint: its author may forget to change that."""
    try:
        code = hashlib.sha256((file or Path(inspect.getfile(maker))).read_bytes()).hexdigest()[:8]
    except (TypeError, OSError):  # not made of a file
        return scorer
    if scorer.fingerprint.endswith(f"-{code}"):  # made before
        return scorer
    return changed(scorer, fingerprint=f"{scorer.fingerprint}-{code}")


def unknown(kind: str, name: str, known: list[str] | tuple[str, ...], other: str = "") -> NbenchError:
    """What is said of a `name` that is none of the `known` ones; `other`: what there is besides."""
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return NbenchError(f"unknown {kind} {name}{hint}: there are {', '.join(known)}{other}")
