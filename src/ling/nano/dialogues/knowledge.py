"""A little of what everybody knows: capitals, opposites, plurals, sounds, colours, legs, verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .draw import Draw, article, capital
from .said import read_said, say
from .turns import Turn
from .words import NOUNS, listed


def _pairs(text: str) -> dict[str, str]:
    pairs = (pair.split("-", 1) for pair in text.split())
    return {a.replace("_", " "): b.replace("_", " ") for a, b in pairs}


_CAPITALS = _pairs("""
France-Paris Germany-Berlin Italy-Rome Spain-Madrid Portugal-Lisbon England-London Ireland-Dublin
Scotland-Edinburgh Norway-Oslo Sweden-Stockholm Finland-Helsinki Denmark-Copenhagen Poland-Warsaw
Austria-Vienna Switzerland-Bern Belgium-Brussels Greece-Athens Turkey-Ankara Russia-Moscow
Ukraine-Kyiv Hungary-Budapest Romania-Bucharest Bulgaria-Sofia China-Beijing Japan-Tokyo Korea-Seoul
India-Delhi Thailand-Bangkok Vietnam-Hanoi Indonesia-Jakarta Egypt-Cairo Kenya-Nairobi Peru-Lima
Ghana-Accra Morocco-Rabat Canada-Ottawa Mexico-Mexico_City Brazil-Brasilia Chile-Santiago
Argentina-Buenos_Aires Cuba-Havana Australia-Canberra Iran-Tehran Iraq-Baghdad Israel-Jerusalem
Iceland-Reykjavik Colombia-Bogota Netherlands-Amsterdam Serbia-Belgrade Croatia-Zagreb
Czechia-Prague Pakistan-Islamabad Philippines-Manila
""")
_UNKNOWN_COUNTRIES = listed("""
Bhutan Chad Mali Togo Gabon Benin Malta Cyprus Nepal Laos Oman Yemen Qatar Angola Niger Fiji Samoa
Tonga Belize Guyana Haiti Bolivia Zambia Malawi Rwanda Burundi Eritrea Georgia Armenia
""")
_OPPOSITES = _pairs("""
hot-cold big-small fast-slow old-young high-low long-short good-bad rich-poor hard-soft light-dark
wet-dry full-empty open-closed happy-sad strong-weak early-late near-far thick-thin wide-narrow
clean-dirty cheap-expensive easy-difficult right-wrong up-down left-right in-out day-night
black-white first-last true-false love-hate begin-end push-pull buy-sell give-take always-never
yes-no win-lose laugh-cry come-go heavy-light loud-quiet sweet-sour new-old before-after
inside-outside above-below north-south east-west summer-winter friend-enemy start-stop alive-dead
tall-short brave-afraid war-peace man-woman boy-girl king-queen brother-sister
""")
_PLURALS = _pairs("""
dog-dogs cat-cats mouse-mice foot-feet tooth-teeth child-children man-men woman-women
goose-geese sheep-sheep fish-fish box-boxes bus-buses baby-babies city-cities leaf-leaves
knife-knives wolf-wolves person-people
house-houses book-books tree-trees glass-glasses dish-dishes story-stories day-days
key-keys potato-potatoes tomato-tomatoes ox-oxen life-lives
fox-foxes lady-ladies cup-cups star-stars
""")
_PAST = _pairs("""
go-went see-saw eat-ate drink-drank come-came run-ran sing-sang swim-swam write-wrote read-read
give-gave take-took make-made say-said buy-bought bring-brought think-thought teach-taught
catch-caught sleep-slept keep-kept feel-felt leave-left lose-lost find-found have-had be-was
do-did know-knew grow-grew fly-flew draw-drew speak-spoke break-broke drive-drove ride-rode
walk-walked play-played work-worked look-looked help-helped ask-asked open-opened live-lived
""")
_SOUNDS = _pairs("""
dog-woof cat-meow cow-moo sheep-baa horse-neigh pig-oink duck-quack owl-hoot bee-buzz lion-roar
snake-hiss frog-croak crow-caw mouse-squeak goose-honk wolf-howl rooster-cock-a-doodle
""")
_COLOURS = _pairs("""
grass-green the_sky-blue snow-white coal-black blood-red a_lemon-yellow a_banana-yellow
a_carrot-orange milk-white gold-yellow a_tomato-red the_sun-yellow the_sea-blue an_elephant-grey
a_rose-red the_night-black chocolate-brown a_crow-black a_frog-green a_swan-white
""")
_LEGS = _pairs("""
dog-four cat-four horse-four cow-four table-four bird-two human-two duck-two ant-six
bee-six fly-six octopus-eight snake-no fish-no chair-four sheep-four chicken-two worm-no beetle-six
""")
_YOUNG = _pairs("""
dog-puppy cat-kitten cow-calf sheep-lamb horse-foal pig-piglet duck-duckling goose-gosling
bear-cub lion-cub chicken-chick deer-fawn frog-tadpole goat-kid
""")
_SPEAK = _pairs("""
France-French Germany-German Spain-Spanish Italy-Italian China-Chinese Japan-Japanese Russia-Russian
England-English Portugal-Portuguese Brazil-Portuguese Mexico-Spanish Poland-Polish Greece-Greek
Egypt-Arabic Sweden-Swedish Austria-German Australia-English Argentina-Spanish
""")
_PLACES = _pairs("""
teacher-school doctor-hospital baker-bakery farmer-farm cook-kitchen pilot-plane nurse-hospital
sailor-ship judge-court actor-theatre waiter-restaurant librarian-library
""")
_MADE_OF = _pairs("""
bread-flour cheese-milk a_window-glass a_book-paper a_ring-gold a_shoe-leather a_sweater-wool
a_table-wood wine-grapes butter-milk a_snowman-snow juice-fruit a_chair-wood a_wall-bricks
""")


class Relation(NamedTuple):
    """What holds between two words, how it is asked, and how answered ({a}, {b})."""

    pairs: Mapping[str, str]
    trained: Sequence[str]
    new: Sequence[str]
    answer: str


_RELATIONS = (
    Relation(_CAPITALS, ("what is the capital of {a}", "what's the capital of {a}",
    "capital of {a}",
                         "which city is the capital of {a}", "tell me the capital of {a}",
                         "what is the capital city of {a}", "do you know the capital of {a}"),
             ("name the capital of {a}",), "The capital of {a} is {b}."),
    Relation({b: a for a, b in _CAPITALS.items()},
             ("which country has the capital {a}", "what country has the capital {a}",
              "of which country is {a} the capital"),
             ("to which country does {a} belong as its capital",), "{a} is the capital of {b}."),
    Relation({**{b: a for a, b in _OPPOSITES.items()}, **_OPPOSITES},
             ("what is the opposite of {a}", "opposite of {a}", "give me the opposite of {a}",
              "tell me the opposite of {a}", "what's the opposite of {a}"),
             ("which word means the contrary of {a}",), "The opposite of {a} is {b}."),
    Relation(_PLURALS, ("what is the plural of {a}", "plural of {a}", "give me the plural of {a}",
                        "what is more than one {a}", "how do you write more than one {a}"),
             ("name the plural of {a}",), "The plural of {a} is {b}."),
    Relation(_PAST, ("what is the past tense of {a}", "past tense of {a}",
    "what is the past of {a}",
                     "give me the past tense of {a}"),
             ("put {a} in the past",), "The past tense of {a} is {b}."),
    Relation(_SOUNDS, ("what sound does {aa} make", "what does {aa} say",
    "what noise does {aa} make",
                       "how does {aa} sound"), ("make the sound of {aa}",), "{Aa} says {b}."),
    Relation(_COLOURS, ("what colour is {a}", "what color is {a}",
    "what is the colour of {a}"), ("name the colour of {a}",), "The colour of {a} is {b}."),
    Relation(_LEGS, ("how many legs does {aa} have", "how many legs has {aa}",
                     "what number of legs does {aa} have"),
             ("count the legs of {aa}",), "{Aa} has {b} legs."),
    Relation(_YOUNG, ("what is a young {a} called", "what is a baby {a} called",
                      "how do you call a baby {a}", "what is the name of a young {a}"),
             ("name the young of {aa}",), "A young {a} is called a {b}."),
    Relation(_SPEAK, ("what language do they speak in {a}", "which language is spoken in {a}",
                      "what do people speak in {a}"),
             ("name the language of {a}",), "People in {a} speak {b}."),
    Relation(_PLACES, ("where does {aa} work", "what is the place of work of {aa}"),
             ("tell me where {aa} works",), "{Aa} works in a {b}."),
    Relation(_MADE_OF, ("what is {a} made of", "what is {a} made from", "from what is {a} made"),
             ("name what {a} is made of",), "{Ab} is made of {b}."),
)  # fmt: skip
_WEIGHTS = (6, 2, 5, 3, 3, 2, 2, 2, 1, 2, 1, 1)
COMMON = frozenset(
    [*NOUNS, *_OPPOSITES, *_OPPOSITES.values(), *_PLURALS, *_PAST, *_MADE_OF.values()]
)
"""Words that people use often."""


_COMMON = """
Why is the sky blue?|Why does the sky look blue?|Tell me why the sky is blue => The air scatters blue light more than red light.
How many days are in a year?|How many days does a year have?|How many days has a year? => A year has 365 days, a leap year 366.
How many weeks are in a year?|How many weeks does a year have? => A year has 52 weeks.
What is the largest planet?|Which planet is the largest?|What's the biggest planet? => Jupiter is the largest planet.
What is the smallest planet?|Which planet is the smallest? => Mercury is the smallest planet.
Which planet do we live on?|On which planet do we live?|What planet is this? => We live on the Earth.
How many planets are there?|How many planets are in the solar system? => There are eight planets.
What is the sun?|Is the sun a star?|What kind of thing is the sun? => The sun is a star.
What is the moon?|What goes round the earth? => The moon goes round the Earth.
Is the sun bigger than the moon?|Which is bigger, the sun or the moon?|Is the moon bigger than the sun? => The sun is much bigger than the moon.
Is the earth round?|Is the earth flat?|What shape is the earth? => The Earth is round.
What is the biggest animal?|Which animal is the largest?|What is the largest animal? => The blue whale is the largest animal.
What is the fastest animal?|Which animal is the fastest?|What's the fastest animal on land? => The cheetah is the fastest animal on land.
What is the tallest animal?|Which animal is the tallest? => The giraffe is the tallest animal.
What is the highest mountain?|Which mountain is the highest?|What is the tallest mountain in the world? => Mount Everest is the highest mountain.
What is the longest river?|Which river is the longest? => The Nile is the longest river.
What is the largest ocean?|Which ocean is the largest? => The Pacific is the largest ocean.
What is the largest country?|Which country is the largest? => Russia is the largest country.
How many continents are there?|How many continents does the earth have? => There are seven continents.
What is H2O?|What is water made of?|What is the formula of water? => Water is H2O, hydrogen and oxygen.
When does water boil?|At what temperature does water boil?|How hot is boiling water? => Water boils at 100 degrees Celsius.
When does water freeze?|At what temperature does water freeze? => Water freezes at 0 degrees Celsius.
What do plants need?|What does a plant need to grow? => Plants need light, water and air.
What do bees make?|What does a bee make? => Bees make honey.
What do cows give?|What does a cow give? => Cows give milk.
What do cats eat?|What does a cat like to eat?|What does a cat eat? => Cats eat meat and fish.
Where do fish live?|Where does a fish live? => Fish live in water.
Can birds fly?|Can a bird fly? => Yes, most birds can fly.
Can fish fly?|Can dogs fly?|Can a cow fly?|Can pigs fly? => No.
Can penguins fly?|Can a penguin fly? => No, penguins cannot fly, but they swim well.
Is ice cold?|Is ice warm or cold? => Yes, ice is cold.
Is fire hot?|Is fire hot or cold? => Yes, fire is hot.
Is the sky green?|Is snow black?|Is grass red? => No.
Who wrote Romeo and Juliet?|Who wrote Hamlet?|Who wrote Macbeth? => William Shakespeare.
Who painted the Mona Lisa?|Who made the Mona Lisa? => Leonardo da Vinci.
Who invented the telephone?|Who made the first telephone? => Alexander Graham Bell.
Who invented the light bulb?|Who made the light bulb? => Thomas Edison.
Who was the first man on the moon?|Who walked first on the moon? => Neil Armstrong.
Who was Albert Einstein?|Who was Einstein?|Who is Einstein? => Einstein was a physicist.
Who was Mozart?|Who is Mozart? => Mozart was a composer.
Who was Shakespeare?|Who is Shakespeare? => Shakespeare was an English writer.
What colours has a rainbow?|What are the colours of the rainbow? => Red, orange, yellow, green, blue, indigo and violet.
How many fingers does a hand have?|How many fingers do I have on one hand? => A hand has five fingers.
How many eyes do people have?|How many eyes does a human have? => People have two eyes.
How many legs does a spider have?|How many legs do spiders have? => A spider has eight legs.
How many letters are in the alphabet?|How many letters does the alphabet have? => The English alphabet has 26 letters.
Say the alphabet|What is the alphabet?|List the letters of the alphabet|Tell me the alphabet => a b c d e f g h i j k l m n o p q r s t u v w x y z
What are the vowels?|Name the vowels|List the vowels => a, e, i, o and u.
How do I boil an egg?|How do you cook an egg?|How long does an egg cook? => Put it into boiling water for eight minutes.
How do I make tea?|How do you make tea?|Tell me how to make tea => Pour hot water on the tea and wait for three minutes.
What is pi?|What is the value of pi?|How much is pi? => Pi is about 3.14.
What is Python?|What is the language Python? => Python is a programming language.
What is a computer?|Explain what a computer is => A computer is a machine that follows programs.
What is the internet?|Explain the internet => The internet joins computers all over the world.
What is love?|What does love mean? => Love is to care for somebody very much.
What is happiness?|What makes people happy? => Friends, health and time make many people happy.
"""  # noqa: E501
# From small to large.
_SIZES = listed("ant bee mouse frog rabbit cat goose dog sheep lion cow horse camel elephant whale")


def _size(d: Draw) -> Turn:
    """Which of two animals is bigger."""
    a, b = d.some(_SIZES, 2)
    small, large = sorted((a, b), key=_SIZES.index)
    if d.chance(0.5):
        asked = d.words(("which is bigger, {a} or {b}", "what is bigger, {a} or {b}",
                         "which one is larger, {a} or {b}"),
                        ("of {a} and {b}, which is bigger",),
                        a=article(a), b=article(b))  # fmt: skip
        answer = f"{capital(article(large))} is bigger than {article(small)}."
        return d.turn(d.asked(asked), answer)
    asked = d.words(("is {a} bigger than {b}", "is {a} larger than {b}"),
                    ("would you say that {a} is bigger than {b}",),
                    a=article(a), b=article(b))  # fmt: skip
    said = "Yes" if a == large else "No"
    return d.turn(d.asked(asked), f"{said}, {article(large)} is bigger than {article(small)}.")


_BEFORE = ("Hello, ", "Hi, ", "Hey, ", "Ling, ", "Ok, ", "So, ", "Tell me: ", "One question: ")


def knowledge(d: Draw) -> Turn:
    """A pair of a relation; of a country outside the list it says that it does not know."""
    if d.chance(0.2):
        return say(d, read_said(_COMMON), _BEFORE)
    if d.chance(0.06):
        return _size(d)
    (relation,) = d.rng.choices(_RELATIONS, _WEIGHTS)
    a = d.one([*relation.pairs])
    b = relation.pairs[a]
    if relation.pairs is _CAPITALS and d.chance(0.12):
        a, b = d.one(_UNKNOWN_COUNTRIES), ""
    values = {"a": a, "aa": article(a), "Aa": capital(article(a)), "Ab": capital(a), "b": b}
    asked = d.words(relation.trained, relation.new, **values)
    if not b:
        return d.turn(d.asked(asked), f"I do not know the capital of {d.typed(a)}.")
    return d.turn(d.asked(asked), relation.answer.format(**values))
