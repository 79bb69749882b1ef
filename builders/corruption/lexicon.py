"""Words whose kind is known: colours, numbers, subjects and settings with what can stand in their place."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
_SHADES = {
    "red": "scarlet crimson ruby maroon burgundy",
    "orange": "amber",
    "yellow": "golden gold blonde blond",
    "green": "emerald olive lime",
    "blue": "navy azure turquoise teal cyan indigo",
    "purple": "violet lavender lilac mauve",
    "pink": "magenta rosy",
    "brown": "tan beige chestnut",
    "black": "ebony",
    "white": "ivory",
    "gray": "grey silver",
}
COLOUR_OF = {word: colour for colour in COLOURS for word in (colour, *_SHADES[colour].split())}
"""The colour that a word means; two words of the same one are no near miss."""

NUMERALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_OF = {"a": 1, "an": 1, "one": 1, "single": 1, **{word: value for value, word in enumerate(NUMERALS, 2)}}
SMALL = 6
"""Numbers up to here replace others: larger ones nobody counts in a picture."""
QUANTIFIERS = _words("no several many few some couple pair dozen multiple numerous lone both")

MEDIA = _words(
    "photo photograph picture image painting drawing illustration sketch portrait view shot close-up closeup "
    "render rendering snapshot scene poster cartoon watercolor watercolour"
)
COLLECTIVES = _words("group pair herd flock couple bunch set pack crowd row pile stack team bouquet")

_SUBJECTS = (
    "dog cat bird horse cow sheep goat pig rabbit fox bear wolf lion tiger elephant giraffe zebra monkey deer",
    "owl eagle parrot penguin duck swan chicken",
    "fish frog turtle",
    "shark whale dolphin snake",
    "man woman boy girl",
    "car truck bus van tractor",
    "bicycle motorcycle scooter",
    "boat raft submarine",
    "canoe ferry yacht",
    "airplane helicopter balloon rocket",
    "apple banana pear lemon peach strawberry",
    "cake pizza sandwich salad pie",
    "rose tulip sunflower daisy lily",
    "cup bowl plate bottle vase",
    "guitar piano violin drum trumpet",
    "shirt jacket dress hat skirt",
    "house castle church tower barn",
    "book laptop phone camera clock lamp",
    "chair table sofa bed bench",
    "tree bush cactus mushroom",
    "robot dragon unicorn dinosaur knight wizard",
    "ball kite balloon frisbee",
)
_SETTINGS = (
    "kitchen bedroom bathroom office library classroom garage museum restaurant",
    "forest desert meadow garden park field swamp",
    "street bridge beach rooftop lawn hill cliff",
    "lake river ocean pool",
    "city village",
    "grass snow sand mud",
    "table bed sofa bench shelf floor counter",
    "airport station market stadium harbor zoo farm",
    "mountain valley island canyon",
)
_SAME = (
    "cat kitty kitten feline",
    "dog puppy hound canine",
    "horse pony stallion",
    "man guy gentleman",
    "woman lady",
    "boy lad",
    "car automobile vehicle sedan",
    "bicycle bike",
    "motorcycle motorbike",
    "airplane plane aeroplane aircraft jet",
    "boat ship vessel",
    "phone smartphone cellphone",
    "sofa couch settee",
    "street road avenue",
    "ocean sea",
    "forest wood woods woodland",
    "field meadow pasture",
    "house home",
    "city town",
    "child kid",
    "person human",
    "grass lawn",
    "rabbit bunny",
    "picture photo image photograph",
    "beach seashore shore",
    "harbor harbour port",
    "cup mug",
)
SAME_AS = {word: words.split()[0] for words in _SAME for word in words.split()}
"""One word for all that mean the same thing in a picture."""


def _groups(lists: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For each word, and each that means the same, what it can be replaced by."""
    found: dict[str, tuple[str, ...]] = {}
    for words in (text.split() for text in lists):
        meant = {SAME_AS.get(word, word) for word in words}
        for word in (*words, *(other for other, main in SAME_AS.items() if main in meant)):
            others = tuple(other for other in words if SAME_AS.get(other, other) != SAME_AS.get(word, word))
            found.setdefault(word, others)
    return found


SUBJECTS = _groups(_SUBJECTS)
SETTINGS = _groups(_SETTINGS)
PLACE_PREPOSITIONS = _words(
    "in on at against near by beside under inside outside over above across through along behind before "
    "beneath within upon around into onto amid among"
)
