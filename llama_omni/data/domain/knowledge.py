"""Countries, opposites, animals, colours, planets, measures, yes and no."""

from random import Random

from llama_omni.data.domain import facts
from llama_omni.data.domain.topic import Slots, Topic
from llama_omni.data.domain.words import ORDINALS, with_article


def _capital(random: Random) -> Slots:
    country = random.choice(list(facts.CAPITALS))
    return {"country": country, "capital": facts.CAPITALS[country]}


def _continent(random: Random) -> Slots:
    pairs = [(country, name) for name, all_of in facts.CONTINENTS.items() for country in all_of]
    country, continent = random.choice(pairs)
    return {"country": country, "continent": continent, "capital": facts.CAPITALS[country]}


def _two_capitals(random: Random) -> Slots:
    country, other = random.sample(list(facts.CAPITALS), 2)
    return {
        "country": country,
        "capital": facts.CAPITALS[country],
        "other": other,
        "other_capital": facts.CAPITALS[other],
    }


def _opposite(random: Random) -> Slots:
    pair = list(random.choice(facts.OPPOSITES))
    random.shuffle(pair)
    return {"a": pair[0], "b": pair[1]}


def _two_opposites(random: Random) -> Slots:
    before = _opposite(random)
    after = _opposite(random)
    return {"x": before["a"], "y": before["b"], **after}


def _animal(table: dict[str, str], random: Random) -> Slots:
    animal = random.choice(list(table))
    return {"animal": animal, "an_animal": with_article(animal), "fact": table[animal]}


def _sound(random: Random) -> Slots:
    return _animal(facts.SOUNDS, random)


def _young(random: Random) -> Slots:
    slots = dict(_animal(facts.YOUNG, random))
    return {**slots, "young": with_article(slots["fact"])}


def _legs(random: Random) -> Slots:
    return _animal(facts.LEGS, random)


def _colour(random: Random) -> Slots:
    thing = random.choice(list(facts.COLOURS))
    return {"thing": thing, "colour": facts.COLOURS[thing]}


def _mixture(random: Random) -> Slots:
    a, b, mixed = random.choice(facts.MIXTURES)
    a, b = (a, b) if random.random() < 0.5 else (b, a)
    return {"a": a, "b": b, "mixed": mixed}


def _planet_place(random: Random) -> Slots:
    i = random.randrange(8)
    return {"place": ORDINALS[i], "planet": facts.PLANETS[i]}


def _superlative(random: Random) -> Slots:
    what = random.choice(list(facts.SUPERLATIVES))
    return {"what": what, "planet": facts.SUPERLATIVES[what]}


def _unit(random: Random) -> Slots:
    parts, whole, count = random.choice(facts.UNITS)
    verb = "has" if parts in ("sides", "wheels", "fingers", "letters", "planets") else ""
    answer = f"{whole} has {count} {parts}" if verb else f"there are {count} {parts} in {whole}"
    return {"parts": parts, "whole": whole, "answer": answer}


def _yes_no(random: Random) -> Slots:
    true = random.random() < 0.5
    statement = random.choice(facts.YES if true else facts.NO)
    thing, predicate = statement.split(" is ")
    answer = f"yes, {statement}" if true else f"no, {thing} is not {predicate}"
    return {"question": f"is {thing} {predicate}?", "said": statement, "answer": answer}


def _can(random: Random) -> Slots:
    ability = random.choice(list(facts.CAN))
    able, unable = facts.CAN[ability]
    true = random.random() < 0.5
    animal = random.choice(able if true else unable)
    answer = f"yes, {animal} can {ability}" if true else f"no, {animal} cannot {ability}"
    return {"animal": animal, "ability": ability, "answer": answer}


def _definition(random: Random) -> Slots:
    thing = random.choice(list(facts.DEFINITIONS))
    return {"thing": thing, "meaning": facts.DEFINITIONS[thing]}


def _spelling(random: Random) -> Slots:
    word = random.choice(facts.SPELLED)
    return {"word": word, "letters": ", ".join(word.upper())}


TOPICS = (
    Topic(
        name="capital",
        weight=5.0,
        draw=_capital,
        wordings=(
            "what is the capital of {country}?",
            "which city is the capital of {country}?",
            "tell me the capital of {country}.",
            "do you know the capital of {country}?",
            "can you tell me the capital of {country}?",
        ),
        answer="the capital of {country} is {capital}.",
    ),
    Topic(
        name="country",
        weight=4.0,
        draw=_capital,
        wordings=(
            "{capital} is the capital of which country?",
            "which country has the capital {capital}?",
            "in which country is {capital}?",
            "{capital} is the capital of what country?",
            "which country is {capital} the capital of?",
            "what country is {capital} the capital of?",
        ),
        answer="{capital} is the capital of {country}.",
    ),
    Topic(
        name="continent",
        weight=2.0,
        draw=_continent,
        wordings=(
            "on which continent is {country}?",
            "what continent is {country} on?",
            "which continent is {country} on?",
        ),
        answer="{country} is in {continent}.",
    ),
    Topic(
        name="opposite",
        weight=4.0,
        draw=_opposite,
        wordings=(
            "what is the opposite of {a}?",
            "tell me the opposite of {a}.",
            "which word is the opposite of {a}?",
            "can you tell me the opposite of {a}?",
            "do you know the opposite of {a}?",
        ),
        answer="the opposite of {a} is {b}.",
    ),
    Topic(
        name="animal_sound",
        weight=1.2,
        draw=_sound,
        wordings=(
            "what sound does {an_animal} make?",
            "what does {an_animal} say?",
            "tell me the sound of {an_animal}.",
            "which sound does {an_animal} make?",
        ),
        answer="{an_animal} {fact}.",
    ),
    Topic(
        name="young_animal",
        weight=1.2,
        draw=_young,
        wordings=(
            "what is a baby {animal} called?",
            "what do you call a baby {animal}?",
            "tell me the name of a baby {animal}.",
            "what do you call a young {animal}?",
            "tell me the name of a young {animal}.",
            "what is a young {animal} called?",
        ),
        answer="a baby {animal} is called {young}.",
    ),
    Topic(
        name="legs",
        weight=1.2,
        draw=_legs,
        wordings=(
            "how many legs does {an_animal} have?",
            "tell me how many legs {an_animal} has.",
            "how many legs has {an_animal} got?",
        ),
        answer="{an_animal} has {fact} legs.",
    ),
    Topic(
        name="colour",
        weight=2.0,
        draw=_colour,
        wordings=(
            "what colour is {thing}?",
            "which colour is {thing}?",
            "tell me the colour of {thing}.",
            "what is the colour of {thing}?",
        ),
        answer="{thing} is {colour}.",
    ),
    Topic(
        name="mixture",
        draw=_mixture,
        wordings=(
            "what do you get if you mix {a} and {b}?",
            "what colour do {a} and {b} make?",
            "mix {a} and {b}.",
        ),
        answer="{a} and {b} make {mixed}.",
    ),
    Topic(
        name="planet_place",
        draw=_planet_place,
        wordings=(
            "what is the {place} planet from the sun?",
            "which planet is the {place} from the sun?",
            "tell me the {place} planet from the sun.",
        ),
        answer="{planet} is the {place} planet from the sun.",
    ),
    Topic(
        name="planet",
        draw=_superlative,
        wordings=("what is {what}?", "which one is {what}?", "tell me {what}."),
        answer="{planet} is {what}.",
    ),
    Topic(
        name="measure",
        weight=2.5,
        draw=_unit,
        wordings=(
            "how many {parts} are in {whole}?",
            "how many {parts} are there in {whole}?",
            "tell me how many {parts} are in {whole}.",
        ),
        answer="{answer}.",
    ),
    Topic(
        name="yes_no",
        weight=3.5,
        draw=_yes_no,
        wordings=("{question}", "is it true that {said}?", "would you say that {said}?"),
        answer="{answer}.",
    ),
    Topic(
        name="ability",
        weight=1.5,
        draw=_can,
        wordings=("can {animal} {ability}?", "is {animal} able to {ability}?"),
        answer="{answer}.",
    ),
    Topic(
        name="definition",
        weight=1.5,
        gate=False,
        draw=_definition,
        wordings=("what is {thing}?", "tell me what {thing} is.", "define {thing}."),
        answer="{thing} is {meaning}.",
    ),
    Topic(
        name="spelling",
        weight=1.5,
        gate=False,
        draw=_spelling,
        wordings=("how do you spell {word}?", "spell the word {word}.", "can you spell {word}?"),
        answer="{word} is spelled {letters}.",
    ),
)
FOLLOW_UPS = (
    Topic(
        name="follow_up_capital",
        weight=1.0,
        gate=False,
        draw=_continent,
        history=("on which continent is {country}?", "{country} is in {continent}."),
        wordings=("and its capital?", "and what is its capital?", "what about its capital?"),
        answer="the capital of {country} is {capital}.",
    ),
    Topic(
        name="follow_up_country",
        weight=1.0,
        gate=False,
        draw=_two_capitals,
        history=(
            "what is the capital of {other}?",
            "the capital of {other} is {other_capital}.",
        ),
        wordings=("and of {country}?", "and the capital of {country}?", "what about {country}?"),
        answer="the capital of {country} is {capital}.",
    ),
    Topic(
        name="follow_up_opposite",
        weight=0.5,
        gate=False,
        draw=_two_opposites,
        history=("what is the opposite of {x}?", "the opposite of {x} is {y}."),
        wordings=("and of {a}?", "and the opposite of {a}?", "what about {a}?"),
        answer="the opposite of {a} is {b}.",
    ),
)
