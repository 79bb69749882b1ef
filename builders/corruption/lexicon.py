"""Lexicons of colours, numbers, subjects and settings, with the words that can replace each."""

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
"""The colour that a word means; two words of the same colour are not a near miss."""

NUMERALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBER_OF = {"a": 1, "an": 1, "one": 1, "single": 1, **{word: value for value, word in enumerate(NUMERALS, 2)}}
SMALL = 6
"""Largest number that replaces another: nobody counts more in a picture."""
QUANTIFIERS = _words("no several many few some couple pair dozen multiple numerous lone both")

MEDIA = _words(
    "photo photograph picture image painting drawing illustration sketch portrait view shot close-up closeup "
    "render rendering snapshot scene poster cartoon watercolor watercolour close up"  # the parser divides "close-up"
)
COLLECTIVES = _words("group pair herd flock couple bunch set pack crowd row pile stack team bouquet")

TRADES = ("chef", "nurse", "firefighter", "soldier", "astronaut", "pilot", "clown", "cowboy", "pirate", "ballerina")
"""People recognisable by their clothes."""

_SUBJECTS = (
    "dog cat bird horse cow sheep goat pig rabbit fox bear wolf lion tiger elephant giraffe zebra monkey deer",
    "panda koala kangaroo camel gorilla hippo crocodile",
    "squirrel hedgehog raccoon hamster mouse",
    "owl eagle parrot penguin duck swan chicken peacock flamingo ostrich pigeon",
    "fish frog turtle",
    "shark whale dolphin snake",
    "octopus crab jellyfish lobster",
    "ant bee butterfly spider snail dragonfly ladybug",
    "man woman boy girl",
    "child adult",
    "baby adult",
    " ".join(TRADES),
    "teacher fisherman musician carpenter",
    "surfer skier cyclist skater climber swimmer",
    "car truck bus van tractor train",
    "taxi ambulance tractor tram",
    "bicycle motorcycle scooter",
    "skateboard surfboard snowboard",
    "boat raft submarine",
    "canoe ferry yacht",
    "airplane helicopter balloon rocket",
    "apple banana pear lemon peach strawberry",
    "carrot tomato potato cucumber pumpkin onion",
    "cake pizza sandwich salad pie",
    "hamburger donut taco pancake",
    "rose tulip sunflower daisy lily orchid",
    "flower mushroom fern",
    "cup bowl plate bottle vase",
    "fork spoon knife",
    "guitar piano violin drum trumpet accordion harp",
    "shirt jacket dress hat skirt",
    "shoe glove scarf sock",
    "umbrella backpack suitcase handbag",
    "ring necklace bracelet crown",
    "sword hammer axe",
    "house castle church tower barn",
    "lighthouse temple windmill skyscraper igloo",
    "bridge building statue fountain",
    "book laptop phone camera clock lamp television",
    "refrigerator oven toaster sink",
    "chair table sofa bed bench",
    "window door staircase",
    "candle mirror pillow",
    "tree bush cactus mushroom",
    "robot dragon unicorn dinosaur knight wizard king queen mermaid",
    "snowman scarecrow",
    "ball kite balloon frisbee",
)
_SETTINGS = (
    "kitchen bedroom bathroom office library classroom garage museum restaurant gym hospital theater supermarket "
    "bakery attic hallway",
    "forest desert meadow garden park field swamp playground",
    "street bridge beach rooftop lawn hill cliff",
    "lake river ocean pool",
    "city village",
    "grass snow sand mud",
    "rain snow fog",
    "table bed sofa bench shelf floor counter windowsill",
    "airport station market stadium harbor zoo farm school hotel square",
    "mountain valley island canyon",
    "backyard balcony basement",
    "room garden street",
    "stage rooftop sidewalk",
    "trail bridge beach",
    "moon island glacier",
    "house castle church lighthouse waterfall volcano",
    "building tent cave",
    "car bus boat train airplane",
    "wall fence hedge",
    "window door",
    "branch rock fence roof",
    "night sunset noon",
)
_SAME = (
    "cat kitty kitten feline",
    "dog puppy hound canine",
    "horse pony stallion",
    "man guy gentleman",
    "woman lady",
    "boy lad",
    "baby infant toddler",
    "car automobile vehicle sedan",
    "taxi cab",
    "bicycle bike",
    "motorcycle motorbike",
    "airplane plane aeroplane aircraft jet",
    "boat ship vessel",
    "rocket spaceship spacecraft",
    "phone smartphone cellphone",
    "television tv",
    "refrigerator fridge",
    "sofa couch settee",
    "table desk",
    "counter countertop",
    "street road avenue highway",
    "trail path",
    "ocean sea",
    "lake pond",
    "river stream creek",
    "forest wood woods woodland jungle",
    "field meadow pasture",
    "hill hillside",
    "house home cabin cottage",
    "city town",
    "hallway corridor",
    "restaurant cafe diner",
    "supermarket shop store",
    "station platform",
    "square plaza",
    "backyard yard",
    "sunset sunrise dusk dawn",
    "child kid",
    "person human",
    "grass lawn",
    "rabbit bunny",
    "picture photo image photograph",
    "beach seashore shore",
    "harbor harbour port",
    "cup mug glass",
    "hat cap",
    "hamburger burger",
    "donut doughnut",
)
SAME_AS = {word: words.split()[0] for words in _SAME for word in words.split()}
"""One word for all words that mean the same thing in a picture."""


def _groups(lists: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The words that can replace each word of the lists, and each synonym of one."""
    replacements: dict[str, tuple[str, ...]] = {}
    groups = [text.split() for text in lists]
    named = [(word, words) for words in groups for word in words]
    synonyms = [(other, words) for word, words in named for other, main in SAME_AS.items() if main == SAME_AS.get(word)]
    for word, words in named + synonyms:  # a word's own group goes before that of its synonym
        others = tuple(other for other in words if SAME_AS.get(other, other) != SAME_AS.get(word, word))
        replacements.setdefault(word, others)
    return replacements


SUBJECTS = _groups(_SUBJECTS)
SETTINGS = _groups(_SETTINGS)
PLACE_PREPOSITIONS = _words(
    "in on at against near by beside under inside outside over above across through along behind before "
    "beneath within upon around into onto amid among from toward towards past down up off"
)
PARTS = _words("front back top side middle center centre edge corner foot bank")
"""Parts of a place: "in front of", "on top of"."""
