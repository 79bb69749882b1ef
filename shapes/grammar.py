"""The language of the embedded world: scenes, their captions, and near-miss corruptions."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
BACKGROUNDS = ("gray", "white", "black", "pink")
NUMERALS = ("no", "one", "two", "three", "four")
CORRUPTION_KINDS = ("subject", "colour", "quantity", "background")
MAX_SINGLE, MAX_PAIRED = 4, 3
HELD_OUT_SHARE = 5
"""One attribute combination in this many is held out of all training, for the bench."""


@dataclass(frozen=True)
class Group:
    """Objects named together: number (0: not stated, or none), colour ("": any) and shape."""

    count: int
    colour: str
    shape: str

    def phrase(self, numeral: bool = True) -> str:
        """`two red circles`, or `red circles` without the numeral."""
        shape = self.shape if self.count == 1 else ("crosses" if self.shape == "cross" else self.shape + "s")
        return " ".join(word for word in (NUMERALS[self.count] if numeral else "", self.colour, shape) if word)


@dataclass(frozen=True)
class Scene:
    """What a caption says. `relation` is "", "left of", "above", "more", "fewer" or "no"."""

    groups: tuple[Group, ...]
    relation: str
    background: str

    @property
    def caption(self) -> str:
        first = self.groups[0]
        if self.relation in ("more", "fewer"):
            text = f"{self.relation} {first.phrase(numeral=False)} than {self.groups[1].phrase(numeral=False)}"
        elif self.relation == "no":
            text = f"{first.phrase()} and {self.groups[1].phrase()}"
        elif self.relation:
            text = f"{first.phrase()} {self.relation} {self.groups[1].phrase()}"
        else:
            text = first.phrase()
        return f"{text} on {self.background} background"

    @property
    def tags(self) -> dict[str, list[str]]:
        """Skills the caption asks for, as GenAI-Bench names them."""
        basic = ["attribute"]
        if any(group.count > 1 for group in self.groups):
            basic.append("counting")
        if self.relation in ("left of", "above"):
            basic.append("spatial relation")
        advanced = {"more": ["comparison"], "fewer": ["comparison"], "no": ["negation"]}.get(self.relation, [])
        return {"basic": basic, "advanced": advanced}

    @property
    def held_out(self) -> bool:
        """Whether this attribute combination (numbers, colours, shapes, background) is reserved for the bench."""
        parts = [*sorted(f"{g.count} {g.colour} {g.shape}" for g in self.groups), self.background]
        return hashlib.sha256("|".join(parts).encode()).digest()[0] % HELD_OUT_SHARE == 0


_CAPTION = re.compile(
    r"^(?:(?P<compare>more|fewer) (?P<c1>\w+) (?P<s1>\w+) than (?P<c2>\w+) (?P<s2>\w+)"
    r"|(?P<n>\w+) (?P<c>\w+) (?P<s>\w+)"
    r"(?: and no (?P<sn>\w+)| (?P<relation>left of|above) (?P<nb>\w+) (?P<cb>\w+) (?P<sb>\w+))?)"
    r" on (?P<background>\w+) background$"
)


def parse(caption: str) -> Scene:
    """The scene that `caption` describes.

    Raises:
        ValueError: the caption is not one of this grammar's.
    """
    match = _CAPTION.match(caption.strip().lower())

    def word(key: str) -> str:
        return match[key] if match else ""

    try:
        if match is None:
            raise ValueError
        if match["compare"]:
            groups = (Group(0, word("c1"), _singular(word("s1"))), Group(0, word("c2"), _singular(word("s2"))))
            scene = Scene(groups, word("compare"), word("background"))
        else:
            first = Group(NUMERALS.index(word("n")), word("c"), _singular(word("s")))
            if match["sn"]:
                scene = Scene((first, Group(0, "", _singular(word("sn")))), "no", word("background"))
            elif match["relation"]:
                second = Group(NUMERALS.index(word("nb")), word("cb"), _singular(word("sb")))
                scene = Scene((first, second), word("relation"), word("background"))
            else:
                scene = Scene((first,), "", word("background"))
        if scene.background not in BACKGROUNDS or any(g.colour not in (*COLOURS, "") for g in scene.groups):
            raise ValueError
    except ValueError:
        raise ValueError(f"not a caption of the shapes world: {caption!r}") from None
    return scene


def _singular(shape: str) -> str:
    for name in SHAPES:
        if shape in (name, name + "s", name + "es"):
            return name
    raise ValueError(shape)


def random_scene(rng: random.Random) -> Scene:
    """A scene drawn from the whole grammar: one group, a spatial relation, a comparison or a negation."""
    background = rng.choice(BACKGROUNDS)
    kind = rng.choices(("", "spatial", "compare", "no"), (35, 40, 12, 13))[0]
    first = Group(
        rng.randint(1, MAX_SINGLE if kind in ("", "no") else MAX_PAIRED), rng.choice(COLOURS), rng.choice(SHAPES)
    )
    if kind == "":
        return Scene((first,), "", background)
    if kind == "no":
        other = rng.choice([shape for shape in SHAPES if shape != first.shape])
        return Scene((first, Group(0, "", other)), "no", background)
    looks = [(c, s) for c in COLOURS for s in SHAPES if (c, s) != (first.colour, first.shape)]
    colour, shape = rng.choice(looks)
    if kind == "compare":
        groups = (replace(first, count=0), Group(0, colour, shape))
        return Scene(groups, rng.choice(("more", "fewer")), background)
    second = Group(rng.randint(1, MAX_PAIRED), colour, shape)
    return Scene((first, second), rng.choice(("left of", "above")), background)


def corrupt(scene: Scene, kind: str, rng: random.Random) -> Scene:
    """A near miss of `scene` that differs in one thing of its first group (the main subject) or its background.

    A scene that training may use gets a corruption that training may use, wherever there is one, so that no
    held-out caption is seen even as a negative.
    """
    options = _near_misses(scene, kind)
    return rng.choice([option for option in options if scene.held_out or not option.held_out] or options)


def _near_misses(scene: Scene, kind: str) -> list[Scene]:
    first, rest = scene.groups[0], scene.groups[1:]
    if kind == "subject":
        changed = [replace(first, shape=shape) for shape in SHAPES if shape != first.shape]
    elif kind == "colour":
        changed = [replace(first, colour=colour) for colour in COLOURS if colour != first.colour]
    elif kind == "quantity" and scene.relation in ("more", "fewer"):
        return [replace(scene, relation="fewer" if scene.relation == "more" else "more")]
    elif kind == "quantity":
        top = MAX_SINGLE if scene.relation in ("", "no") else MAX_PAIRED
        changed = [replace(first, count=count) for count in range(1, top + 1) if count != first.count]
    elif kind == "background":
        return [replace(scene, background=background) for background in BACKGROUNDS if background != scene.background]
    else:
        raise ValueError(f"no corruption {kind!r}: there are {', '.join(CORRUPTION_KINDS)}")
    used = {(g.colour or first.colour, g.shape) for g in rest}
    return [replace(scene, groups=(group, *rest)) for group in changed if (group.colour, group.shape) not in used]


def corruptions(scene: Scene, seed: int = 0) -> dict[str, str]:
    """One corrupted caption per kind, the same for the same scene and seed."""
    rng = random.Random(f"{seed}|{scene.caption}")
    return {kind: corrupt(scene, kind, rng).caption for kind in CORRUPTION_KINDS}


def scenes(seed: int, held_out: bool) -> Iterator[Scene]:
    """Endless scenes of one side of the split; the same seed gives the same scenes."""
    rng = random.Random(f"scenes|{seed}")
    while True:
        scene = random_scene(rng)
        near = (_near_misses(scene, kind) for kind in CORRUPTION_KINDS)
        if scene.held_out == held_out and (held_out or all(any(not s.held_out for s in options) for options in near)):
            yield scene
