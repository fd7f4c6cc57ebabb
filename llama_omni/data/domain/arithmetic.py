"""Sums, differences, products, quotients, comparison and counting, all in words."""

from random import Random

from llama_omni.data.domain.topic import Slots, Topic
from llama_omni.data.domain.words import listed, number

LIMIT = 100  # of the sums that count for the gate


def _sum(random: Random) -> Slots:
    a = random.randrange(LIMIT + 1)
    b = random.randrange(LIMIT + 1 - a)
    a, b = (a, b) if random.random() < 0.5 else (b, a)
    return {"a": number(a), "b": number(b), "c": number(a + b)}


def _difference(random: Random) -> Slots:
    b = random.randrange(LIMIT + 1)
    c = random.randrange(LIMIT + 1 - b)
    return {"a": number(b + c), "b": number(b), "c": number(c)}


def _product(random: Random) -> Slots:
    a, b = random.randint(1, 10), random.randint(1, 10)
    return {"a": number(a), "b": number(b), "c": number(a * b)}


def _quotient(random: Random) -> Slots:
    b, c = random.randint(2, 10), random.randint(1, 10)
    return {"a": number(b * c), "b": number(b), "c": number(c)}


def _double(random: Random) -> Slots:
    a = random.randint(1, 50)
    return {"a": number(a), "c": number(2 * a)}


def _half(random: Random) -> Slots:
    a = random.randint(1, 50)
    return {"a": number(2 * a), "c": number(a)}


def _two(random: Random) -> tuple[int, int]:
    a, b = random.sample(range(LIMIT + 1), 2)
    return a, b


def _larger(random: Random) -> Slots:
    a, b = _two(random)
    return {"a": number(a), "b": number(b), "c": number(max(a, b)), "d": number(min(a, b))}


def _is_larger(random: Random) -> Slots:
    a, b = _two(random)
    if a > b:
        verdict = f"yes, {number(a)} is larger than {number(b)}"
    else:
        verdict = f"no, {number(a)} is smaller than {number(b)}"
    return {"a": number(a), "b": number(b), "verdict": verdict}


def _count_up(random: Random) -> Slots:
    a = random.randint(1, 90)
    b = a + random.randint(2, 6)
    return {
        "a": number(a),
        "b": number(b),
        "all": listed([number(n) for n in range(a, b + 1)]),
    }


def _count_to(random: Random) -> Slots:
    b = random.randint(3, 12)
    return {"b": number(b), "all": listed([number(n) for n in range(1, b + 1)])}


def _count_down(random: Random) -> Slots:
    b = random.randint(3, 10)
    return {"b": number(b), "all": listed([number(n) for n in range(b, -1, -1)])}


def _next(random: Random) -> Slots:
    a = random.randint(1, 99)
    return {"a": number(a), "after": number(a + 1), "before": number(a - 1)}


def _sum_of_three(random: Random) -> Slots:
    a, b, d = (random.randint(1, 33) for _ in range(3))
    words = {"a": a, "b": b, "c": a + b, "d": d, "e": a + b + d}
    return {name: number(value) for name, value in words.items()}


def _large_sum(random: Random) -> Slots:
    a, b = random.randint(100, 899), random.randint(10, 899)
    b = min(b, 999 - a)
    return {"a": number(a), "b": number(b), "c": number(a + b)}


TOPICS = (
    Topic(
        name="addition",
        weight=10.0,
        draw=_sum,
        holds_out_items=True,
        wordings=(
            "what is {a} plus {b}?",
            "how much is {a} plus {b}?",
            "what do you get if you add {a} and {b}?",
            "add {a} and {b}.",
            "can you tell me what {a} plus {b} is?",
            "tell me how much {a} plus {b} is.",
        ),
        answer="{a} plus {b} is {c}.",
    ),
    Topic(
        name="subtraction",
        weight=8.0,
        draw=_difference,
        holds_out_items=True,
        wordings=(
            "what is {a} minus {b}?",
            "how much is {a} minus {b}?",
            "take {b} away from {a}.",
            "what is left if you take {b} from {a}?",
            "tell me how much {a} minus {b} is.",
            "can you tell me what {a} minus {b} is?",
        ),
        answer="{a} minus {b} is {c}.",
    ),
    Topic(
        name="multiplication",
        weight=2.0,
        draw=_product,
        wordings=(
            "what is {a} times {b}?",
            "how much is {a} times {b}?",
            "multiply {a} by {b}.",
            "can you tell me what {a} times {b} is?",
        ),
        answer="{a} times {b} is {c}.",
    ),
    Topic(
        name="division",
        weight=2.0,
        draw=_quotient,
        wordings=(
            "what is {a} divided by {b}?",
            "how much is {a} divided by {b}?",
            "divide {a} by {b}.",
            "can you tell me what {a} divided by {b} is?",
        ),
        answer="{a} divided by {b} is {c}.",
    ),
    Topic(
        name="doubling",
        weight=0.7,
        draw=_double,
        wordings=(
            "what is twice {a}?",
            "double {a}.",
            "what is the double of {a}?",
            "how much is the double of {a}?",
        ),
        answer="twice {a} is {c}.",
    ),
    Topic(
        name="halving",
        weight=0.7,
        draw=_half,
        wordings=(
            "what is half of {a}?",
            "how much is half of {a}?",
            "can you tell me what half of {a} is?",
            "tell me half of {a}.",
        ),
        answer="half of {a} is {c}.",
    ),
    Topic(
        name="comparison",
        weight=6.0,
        draw=_larger,
        holds_out_items=True,
        wordings=(
            "which is larger, {a} or {b}?",
            "which number is bigger, {a} or {b}?",
            "what is more, {a} or {b}?",
            "which number is larger, {a} or {b}?",
        ),
        answer="{c} is larger than {d}.",
    ),
    Topic(
        name="smaller",
        weight=4.0,
        draw=_larger,
        holds_out_items=True,
        wordings=(
            "which is smaller, {a} or {b}?",
            "which number is smaller, {a} or {b}?",
            "what is less, {a} or {b}?",
        ),
        answer="{d} is smaller than {c}.",
    ),
    Topic(
        name="is_larger",
        weight=4.0,
        draw=_is_larger,
        holds_out_items=True,
        wordings=("is {a} larger than {b}?", "is {a} more than {b}?", "is {a} bigger than {b}?"),
        answer="{verdict}.",
    ),
    Topic(
        name="counting_up",
        weight=0.8,
        draw=_count_up,
        wordings=(
            "count from {a} to {b}.",
            "can you count from {a} to {b}?",
            "please count from {a} to {b}.",
        ),
        answer="{all}.",
    ),
    Topic(
        name="counting_to",
        weight=0.4,
        draw=_count_to,
        wordings=("count to {b}.", "can you count to {b}?", "please count to {b}."),
        answer="{all}.",
    ),
    Topic(
        name="counting_down",
        weight=0.4,
        draw=_count_down,
        wordings=(
            "count down from {b}.",
            "count backwards from {b}.",
            "can you count down from {b}?",
        ),
        answer="{all}.",
    ),
    Topic(
        name="number_after",
        weight=2.0,
        draw=_next,
        wordings=(
            "what comes after {a}?",
            "which number comes after {a}?",
            "what number follows {a}?",
            "tell me which number comes after {a}.",
            "tell me the number that follows {a}.",
            "tell me the number after {a}.",
        ),
        answer="{after} comes after {a}.",
    ),
    Topic(
        name="number_before",
        weight=1.5,
        draw=_next,
        wordings=(
            "what comes before {a}?",
            "which number comes before {a}?",
            "tell me the number before {a}.",
        ),
        answer="{before} comes before {a}.",
    ),
    Topic(
        name="large_addition",
        weight=3.0,
        gate=False,
        draw=_large_sum,
        holds_out_items=True,
        wordings=("what is {a} plus {b}?", "how much is {a} plus {b}?", "add {a} and {b}."),
        answer="{a} plus {b} is {c}.",
    ),
)
FOLLOW_UPS = (
    Topic(
        name="follow_up_sum",
        weight=1.5,
        gate=False,
        draw=_sum_of_three,
        history=("what is {a} plus {b}?", "{a} plus {b} is {c}."),
        wordings=("and plus {d}?", "now add {d}.", "plus {d}?"),
        answer="{c} plus {d} is {e}.",
    ),
)
