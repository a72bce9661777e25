"""Words that conversations are about. Made-up ones teach to copy what was never seen."""

from __future__ import annotations

import random


def listed(text: str) -> tuple[str, ...]:
    """Words of a text."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Parts of a text that `|` divides."""
    return tuple(text.replace("\n", "").split("|"))


NAMES = listed("""
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tina
Victor Wendy Alice Bob Carol Dan Eva Frank Gina Hugo Iris James Karen Lucas Maria Nina Oscar Peter
Rita Simon Tom Vera Will Zoe Adam Bella Chris Diana Eric Fiona George Hannah Ivan Julia Kevin
Laura Mark Nora Owen Paula Robert Sarah Tim Ursula Walter Amy Brian Cathy Dennis Ella Fred Gloria
Harry Irene John Kim Linda Mike Nick Pam Ralph Susan Ted Una Vince Yuki Ali Chen Dmitri Elena
Farah Goran Hana Ines Jorge Kofi Lena Mei Nadia Omar Priya Ravi Sofia Tariq Wei Yusuf Zara Max
Lily Ruby Luke Ryan Sean Toby Jane Lucy Molly Daisy Holly Ivy Jade Rose Abby Becky Carl Doug Ernie
Gus Hal Aaron Abel Agnes Albert Alex Andrew Angela Arthur Barbara Betty Bruno Caleb Colin Daniel
Donna Edgar Edith Ethan Eve Gary Greg Helen Isaac Jacob Jason Jean Jenny Jill Joe Joan Judy Keith
Larry Lisa Louis Mary Matt Megan Nancy Neil Nicole Patrick Philip Rachel Ray Rebecca Roger Ron
Ruth Scott Stella Steve Sue Terry Thomas Tony Tracy Vicky Vivian Wanda Yvonne Zack
""")

CITIES = phrases("""
Paris|London|Berlin|Madrid|Rome|Vienna|Oslo|Tokyo|Delhi|Cairo|Lima|Boston|Chicago|Miami|Dallas|
Seattle|Toronto|Sydney|Dublin|Lisbon|Prague|Warsaw|Athens|Moscow|Beijing|Shanghai|Seoul|Mumbai|
Nairobi|Lagos|Munich|Hamburg|Milan|Naples|Venice|Geneva|Zurich|Brussels|Amsterdam|Stockholm|
Helsinki|Copenhagen|Budapest|Bucharest|Sofia|Istanbul|Ankara|Dubai|Tehran|Baghdad|Karachi|Lahore|
Dhaka|Bangkok|Hanoi|Manila|Jakarta|Singapore|Hong Kong|Taipei|Osaka|Kyoto|Melbourne|Perth|Auckland|
Wellington|Honolulu|Denver|Austin|Houston|Phoenix|Portland|San Francisco|Los Angeles|New York|
Detroit|Atlanta|Orlando|Montreal|Vancouver|Ottawa|Mexico City|Havana|Bogota|Quito|Santiago|
Buenos Aires|Rio|Sao Paulo|Caracas|Casablanca|Tunis|Algiers|Accra|Dakar|Cape Town|Hangzhou|Shenzhen|
Bristol|Leeds|Oxford|Cambridge|Glasgow|Edinburgh|Cork|Lyon|Nice|Bordeaux|Seville|Porto|Turin|Graz|
Salzburg|Basel|Bern|Cologne|Leipzig|Dresden|Bremen|Krakow|Riga|Vilnius|Tallinn|Minsk|Kyiv|Odessa
""")

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "animal": "dog cat horse cow pig sheep goat lion tiger bear wolf fox rabbit mouse elephant "
        "monkey camel deer zebra giraffe donkey kangaroo squirrel hedgehog otter",
        "bird": "robin eagle owl duck goose swan parrot crow sparrow pigeon penguin hawk stork",
        "fish": "trout salmon tuna cod carp herring shark eel pike perch",
        "insect": "ant bee wasp fly moth beetle butterfly mosquito cricket ladybird",
        "fruit": "apple pear plum cherry banana orange lemon grape peach mango melon fig kiwi "
        "apricot strawberry pineapple",
        "vegetable": "carrot potato onion cabbage pea bean spinach leek tomato pepper cucumber "
        "pumpkin radish turnip broccoli",
        "colour": "red blue green yellow black white brown grey pink purple orange",
        "drink": "water tea coffee milk juice lemonade cocoa cider",
        "tool": "hammer saw drill wrench screwdriver axe shovel rake knife chisel",
        "instrument": "piano violin guitar flute drum trumpet harp cello organ clarinet",
        "sport": "football tennis golf hockey rugby swimming rowing boxing cricket basketball",
        "vehicle": "car bus train bicycle truck boat ship plane tram motorcycle",
        "job": "teacher doctor nurse baker farmer pilot cook painter driver lawyer gardener writer",
        "tree": "oak pine birch maple elm willow beech ash cedar",
        "flower": "rose tulip daisy lily violet orchid sunflower poppy",
        "metal": "iron gold silver copper tin lead zinc nickel",
        "planet": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
        "shape": "circle square triangle rectangle oval star cube",
        "room": "kitchen bedroom bathroom hall garage office cellar attic",
        "language": "English French German Spanish Italian Chinese Japanese Russian Arabic Greek",
        "season": "spring summer autumn winter",
        "meal": "breakfast lunch dinner supper",
        "garment": "shirt coat hat sock shoe scarf dress jacket glove sweater skirt belt",
        "piece of furniture": "table chair bed sofa desk shelf cupboard stool wardrobe bench",
        "part of the body": "head arm leg hand foot nose ear eye knee mouth shoulder elbow finger",
        "country": "France Spain Italy Germany Japan China India Brazil Canada Egypt Kenya Peru "
        "Norway Sweden Poland Greece",
    }.items()
}
PLURALS = {
    "piece of furniture": "pieces of furniture", "part of the body": "parts of the body",
    "fish": "fish", "country": "countries",
}  # fmt: skip

COLOURS = CATEGORIES["colour"]
ROOMS = (
    "kitchen", "bedroom", "bathroom", "hall", "garage", "office", "cellar", "attic",
    "living room", "dining room", "garden", "nursery", "library", "balcony", "study",
)  # fmt: skip
THINGS = listed("""
ball cup book hat bag box pen coat chair lamp car bike kite key coin ring watch phone shirt shoe
scarf plate spoon knife bottle basket clock drum flute ticket map letter candle rope bucket broom
pillow blanket mirror camera radio doll puzzle ladder brush comb umbrella wallet glove jar bowl
""")
VERBS = listed("""
buy find fix clean wash paint bring sell send check move pack order return
""")
# What a reminder, a note or a message may say.
TASKS = phrases("""
call mom|buy milk|pay the rent|water the plants|feed the cat|walk the dog|take out the trash|
call the doctor|book a table|clean the kitchen|wash the car|write to Anna|read the report|
send the letter|buy bread and butter|pick up the kids|go to the gym|fix the bike|charge the phone|
close the windows|bake a cake|visit grandma|do the homework|drink some water|take a break|
return the books|order pizza|check the oven|lock the door|pack my bag|buy a present for Tom|
cancel the meeting|call the bank|renew the passport|iron the shirts|buy stamps|mow the lawn
""")
MESSAGES = phrases("""
I will be late|dinner is ready|see you tomorrow|happy birthday|I am on my way|call me back|
the meeting is at noon|thank you for the book|I miss you|good luck today|the train is late|
I am at home|please bring some bread|where are you|I have the keys|we won the game|
the door is open|see you at the station|I cannot come today|all is well|the plan has changed
""")

_LIVING = [w for c, found in CATEGORIES.items() for w in found if w.islower() and c != "season"]
NOUNS = tuple(dict.fromkeys([*THINGS, *_LIVING]))
GOODS = (
    *THINGS, *CATEGORIES["fruit"], *CATEGORIES["vegetable"], *CATEGORIES["tool"],
    *CATEGORIES["garment"], *CATEGORIES["instrument"], *CATEGORIES["flower"],
)  # fmt: skip
_STARTS = listed("""
b c d f g h j k l m n p r s t v w z br ch cl dr fl gr pl sh st th tr
""")
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ee", "oo"]
_CLOSES = ["", "", "", *["l", "m", "n", "r", "s", "t", "x", "nd", "rk", "lt", "ck"]]


def made_up(rng: random.Random, syllables: int = 2) -> str:
    """A word that nobody knows, such as "dravel"."""
    parts = (rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(syllables))
    return "".join(parts) + rng.choice(_CLOSES)


def name(rng: random.Random) -> str:
    """Of a person, sometimes made up."""
    return rng.choice(NAMES) if rng.random() < 0.75 else made_up(rng).capitalize()


def city(rng: random.Random) -> str:
    """Of the world, sometimes made up."""
    return rng.choice(CITIES) if rng.random() < 0.8 else made_up(rng).capitalize()


def noun(rng: random.Random) -> str:
    """Of a thing or a living being."""
    return rng.choice(NOUNS)


def task(rng: random.Random) -> str:
    """What somebody has to do."""
    if rng.random() < 0.4:
        return rng.choice(TASKS)
    thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}" if rng.random() < 0.4 else noun(rng)
    return f"{rng.choice(VERBS)} the {thing}"


_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "foot": "feet", "sheep": "sheep", "deer": "deer",
    "fish": "fish", "child": "children", "man": "men", "woman": "women", "tooth": "teeth",
    "person": "people", "knife": "knives", "shelf": "shelves", "leaf": "leaves", "wolf": "wolves",
    "scarf": "scarves", "half": "halves", "life": "lives", "wife": "wives", "ox": "oxen",
    "trout": "trout", "salmon": "salmon", "cod": "cod", "tuna": "tuna", "carp": "carp",
    "piano": "pianos", "cello": "cellos", "kangaroo": "kangaroos", "kilo": "kilos",
    "radio": "radios", "spinach": "spinach", "broccoli": "broccoli", "perch": "perch",
    "pike": "pike", "mango": "mangos", "kiwi": "kiwis", "radius": "radii", "loaf": "loaves",
}  # fmt: skip


def plural(noun: str) -> str:
    """Of an English noun."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh", "to")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
