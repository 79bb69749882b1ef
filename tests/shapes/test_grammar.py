"""The world's language: captions and scenes are one to one, corruptions are near misses, the split holds."""

import itertools
import random

import pytest

from nbench.shapes.grammar import CORRUPTION_KINDS, Group, Scene, corrupt, corruptions, parse, random_scene, scenes


def some(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def test_captions_read_as_english() -> None:
    circles, square = Group(2, "red", "circle"), Group(1, "blue", "square")
    assert Scene((circles,), "", "gray").caption == "two red circles on gray background"
    assert Scene((circles, square), "above", "gray").caption == (
        "two red circles above one blue square on gray background"
    )
    crosses = Group(0, "", "cross")
    assert Scene((square, crosses), "no", "pink").caption == "one blue square and no crosses on pink background"
    many = (Group(0, "red", "cross"), Group(0, "cyan", "square"))
    assert Scene(many, "more", "white").caption == "more red crosses than cyan squares on white background"


def test_parse_inverts_caption() -> None:
    for scene in some(2000):
        assert parse(scene.caption) == scene


@pytest.mark.parametrize(
    "caption", ["", "a photo of a cat", "two red dragons on gray background", "two red circles on lava background"]
)
def test_parse_refuses_other_texts(caption: str) -> None:
    with pytest.raises(ValueError, match="not a caption of the shapes world"):
        parse(caption)


@pytest.mark.parametrize("kind", CORRUPTION_KINDS)
def test_a_corruption_changes_one_thing(kind: str) -> None:
    rng = random.Random(1)
    for scene in some(500):
        wrong = corrupt(scene, kind, rng)
        changed = {
            "subject": wrong.groups[0].shape != scene.groups[0].shape,
            "colour": wrong.groups[0].colour != scene.groups[0].colour,
            "quantity": (wrong.groups[0].count, wrong.relation) != (scene.groups[0].count, scene.relation),
            "background": wrong.background != scene.background,
        }
        assert [name for name, differs in changed.items() if differs] == [kind]
        assert wrong.groups[1:] == scene.groups[1:]
        assert parse(wrong.caption) == wrong


def test_unknown_corruption_is_refused() -> None:
    with pytest.raises(ValueError, match="no corruption 'size'"):
        corrupt(some(1)[0], "size", random.Random(0))


def test_training_never_meets_a_held_out_caption() -> None:
    held_out = {scene.caption for scene in itertools.islice(scenes(0, held_out=True), 3000)}
    for scene in itertools.islice(scenes(0, held_out=False), 3000):
        assert scene.caption not in held_out
        assert not any(parse(caption).held_out for caption in corruptions(scene).values())


def test_the_same_seed_gives_the_same_scenes() -> None:
    first, again, other = (list(itertools.islice(scenes(seed, held_out=True), 50)) for seed in (3, 3, 4))
    assert first == again != other


def test_tags_are_genai_benchs() -> None:
    skills = {tag for scene in some(500) for level in scene.tags.values() for tag in level}
    assert skills == {"attribute", "counting", "spatial relation", "comparison", "negation"}
    assert parse("more red circles than blue squares on gray background").tags == {
        "basic": ["attribute"],
        "advanced": ["comparison"],
    }
