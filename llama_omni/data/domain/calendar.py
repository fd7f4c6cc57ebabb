"""Days, months and well-known dates."""

from random import Random

from llama_omni.data.domain.topic import Slots, Topic
from llama_omni.data.domain.words import ORDINALS, number

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SEASONS = ("winter", "spring", "summer", "autumn")
_DATES = {
    "Christmas Day": "the twenty-fifth of December",
    "Christmas Eve": "the twenty-fourth of December",
    "New Year's Day": "the first of January",
    "New Year's Eve": "the thirty-first of December",
    "Halloween": "the thirty-first of October",
    "Valentine's Day": "the fourteenth of February",
    "April Fools' Day": "the first of April",
    "Saint Patrick's Day": "the seventeenth of March",
    "Labour Day": "the first of May",
    "Earth Day": "the twenty-second of April",
}


def _day(random: Random) -> Slots:
    i = random.randrange(7)
    return {"day": DAYS[i], "after": DAYS[(i + 1) % 7], "before": DAYS[i - 1]}


def _month(random: Random) -> Slots:
    i = random.randrange(12)
    return {
        "month": MONTHS[i],
        "after": MONTHS[(i + 1) % 12],
        "before": MONTHS[i - 1],
        "place": ORDINALS[i],
        "days": number(_LENGTHS[i]),
        "season": _SEASONS[(i + 1) % 12 // 3],
    }


def _weekend(random: Random) -> Slots:
    i = random.randrange(7)
    yes = f"yes, {DAYS[i]} is part of the weekend"
    return {"day": DAYS[i], "verdict": yes if i > 4 else f"no, {DAYS[i]} is a weekday"}


def _date(random: Random) -> Slots:
    feast = random.choice(sorted(_DATES))
    return {"feast": feast, "date": _DATES[feast]}


TOPICS = (
    Topic(
        name="day_after",
        draw=_day,
        wordings=(
            "what day comes after {day}?",
            "which day comes after {day}?",
            "what day follows {day}?",
            "if today is {day}, what day is tomorrow?",
            "tell me the day after {day}.",
        ),
        answer="{after} comes after {day}.",
    ),
    Topic(
        name="day_before",
        draw=_day,
        wordings=(
            "what day comes before {day}?",
            "which day comes before {day}?",
            "if today is {day}, what day was yesterday?",
            "tell me the day before {day}.",
        ),
        answer="{before} comes before {day}.",
    ),
    Topic(
        name="weekend",
        weight=0.5,
        draw=_weekend,
        wordings=("is {day} part of the weekend?", "does {day} belong to the weekend?"),
        answer="{verdict}.",
    ),
    Topic(
        name="month_after",
        weight=2.0,
        draw=_month,
        wordings=(
            "what month comes after {month}?",
            "which month comes after {month}?",
            "tell me the month after {month}.",
            "which month follows {month}?",
            "tell me what month comes after {month}.",
            "what month follows {month}?",
        ),
        answer="{after} comes after {month}.",
    ),
    Topic(
        name="month_before",
        draw=_month,
        wordings=(
            "what month comes before {month}?",
            "which month comes before {month}?",
            "tell me the month before {month}.",
        ),
        answer="{before} comes before {month}.",
    ),
    Topic(
        name="month_number",
        draw=_month,
        wordings=(
            "what is the {place} month of the year?",
            "which month is the {place} of the year?",
            "tell me the {place} month of the year.",
        ),
        answer="the {place} month of the year is {month}.",
    ),
    Topic(
        name="month_length",
        draw=_month,
        wordings=(
            "how many days does {month} have?",
            "how many days are in {month}?",
            "how many days are there in {month}?",
            "tell me how many days {month} has.",
        ),
        answer="{month} has {days} days.",
    ),
    Topic(
        name="season",
        weight=0.7,
        draw=_month,
        wordings=("what season is {month} in?", "which season is {month} in?"),
        answer="{month} is in {season}.",
    ),
    Topic(
        name="date",
        draw=_date,
        wordings=(
            "when is {feast}?",
            "what date is {feast}?",
            "tell me the date of {feast}.",
            "on what date is {feast}?",
        ),
        answer="{feast} is on {date}.",
    ),
)
