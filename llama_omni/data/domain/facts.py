"""What the tiny model knows of the world, as tables."""

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki",
    "Ireland": "Dublin", "England": "London", "Scotland": "Edinburgh", "Belgium": "Brussels",
    "Hungary": "Budapest", "Russia": "Moscow", "Turkey": "Ankara", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Morocco": "Rabat", "Ghana": "Accra", "Ethiopia": "Addis Ababa",
    "India": "New Delhi", "China": "Beijing", "Japan": "Tokyo", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Iran": "Tehran", "Iraq": "Baghdad",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Cuba": "Havana", "Brazil": "Brasilia",
    "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Colombia": "Bogota",
    "Australia": "Canberra", "New Zealand": "Wellington", "South Korea": "Seoul",
    "Switzerland": "Bern", "Bulgaria": "Sofia", "Romania": "Bucharest", "Iceland": "Reykjavik",
    "Saudi Arabia": "Riyadh",
}  # fmt: skip
CONTINENTS = {
    "Europe": (
        "France", "Germany", "Italy", "Spain", "Portugal", "Greece", "Poland", "Sweden", "Norway",
        "Finland", "Ireland", "England", "Scotland", "Hungary", "Switzerland", "Iceland",
    ),
    "Africa": ("Egypt", "Kenya", "Morocco", "Ghana", "Ethiopia"),
    "Asia": ("India", "China", "Japan", "Thailand", "Vietnam", "Iran", "Iraq", "South Korea"),
    "North America": ("Canada", "Mexico", "Cuba"),
    "South America": ("Brazil", "Argentina", "Chile", "Peru", "Colombia"),
}  # fmt: skip
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("happy", "sad"),
    ("light", "dark"), ("old", "new"), ("rich", "poor"), ("hard", "soft"), ("wet", "dry"),
    ("full", "empty"), ("high", "low"), ("open", "closed"), ("early", "late"), ("good", "bad"),
    ("strong", "weak"), ("clean", "dirty"), ("loud", "quiet"), ("near", "far"), ("thick", "thin"),
    ("wide", "narrow"), ("day", "night"), ("up", "down"), ("left", "right"), ("inside", "outside"),
    ("first", "last"), ("begin", "end"), ("love", "hate"), ("win", "lose"), ("push", "pull"),
    ("north", "south"), ("east", "west"), ("always", "never"), ("black", "white"),
)  # fmt: skip
SOUNDS = {
    "dog": "barks", "cat": "meows", "cow": "moos", "lion": "roars", "duck": "quacks",
    "horse": "neighs", "sheep": "bleats", "pig": "oinks", "snake": "hisses", "wolf": "howls",
    "bee": "buzzes", "frog": "croaks", "owl": "hoots", "mouse": "squeaks",
}  # fmt: skip
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb",
    "pig": "piglet", "duck": "duckling", "lion": "cub", "goat": "kid", "hen": "chick",
    "frog": "tadpole", "kangaroo": "joey",
}  # fmt: skip
LEGS = {
    "dog": "four", "cat": "four", "horse": "four", "cow": "four", "spider": "eight", "bee": "six",
    "ant": "six", "bird": "two", "duck": "two", "snake": "no", "fish": "no", "person": "two",
}  # fmt: skip
COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "blood": "red", "a banana": "yellow",
    "a lemon": "yellow", "coal": "black", "a carrot": "orange", "a tomato": "red",
    "chocolate": "brown", "milk": "white", "an elephant": "grey", "a strawberry": "red",
    "a pumpkin": "orange", "the sun": "yellow", "a frog": "green", "a polar bear": "white",
}  # fmt: skip
MIXTURES = (
    ("blue", "yellow", "green"), ("red", "yellow", "orange"), ("red", "blue", "purple"),
    ("black", "white", "grey"), ("red", "white", "pink"),
)  # fmt: skip
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
SUPERLATIVES = {
    "the largest planet": "Jupiter", "the smallest planet": "Mercury",
    "the closest planet to the sun": "Mercury", "the hottest planet": "Venus",
    "the red planet": "Mars", "the planet with the famous rings": "Saturn",
    "the farthest planet from the sun": "Neptune", "the planet we live on": "Earth",
}  # fmt: skip
UNITS = (
    ("minutes", "an hour", "sixty"), ("seconds", "a minute", "sixty"),
    ("hours", "a day", "twenty-four"), ("days", "a week", "seven"),
    ("weeks", "a year", "fifty-two"),
    ("months", "a year", "twelve"), ("years", "a decade", "ten"),
    ("years", "a century", "one hundred"), ("metres", "a kilometre", "one thousand"),
    ("grams", "a kilogram", "one thousand"), ("centimetres", "a metre", "one hundred"),
    ("millimetres", "a centimetre", "ten"), ("eggs", "a dozen", "twelve"),
    ("inches", "a foot", "twelve"), ("cents", "a dollar", "one hundred"),
    ("sides", "a triangle", "three"), ("sides", "a square", "four"),
    ("letters", "the alphabet", "twenty-six"), ("wheels", "a car", "four"),
    ("wheels", "a bicycle", "two"), ("fingers", "a hand", "five"),
    ("planets", "the solar system", "eight"),
)  # fmt: skip
YES = (
    "the sun is a star", "ice is cold", "fire is hot", "a dog is an animal", "water is wet",
    "the earth is round", "a rose is a flower", "gold is a metal", "sugar is sweet",
    "an apple is a fruit", "a whale is a mammal", "the moon is smaller than the earth",
    "an elephant is bigger than a mouse", "a carrot is a vegetable",
)  # fmt: skip
NO = (
    "the moon is a planet", "ice is hot", "a cat is a bird", "a spider is an insect",
    "the earth is flat", "a table is an animal", "a banana is blue", "iron is a fruit",
    "a mouse is bigger than an elephant", "the sun is cold", "a whale is a fish",
    "a rose is an animal", "a stone is soft", "snow is black",
)  # fmt: skip
CAN = {
    "fly": (
        ("an eagle", "a bee", "an owl", "a bat"),
        ("a dog", "a horse", "a snake", "an elephant"),
    ),
    "swim": (("a fish", "a whale", "a duck", "a frog"), ("a stone", "a chair", "a tree")),
    "bark": (("a dog",), ("a cat", "a cow", "a fish")),
}  # fmt: skip
DEFINITIONS = {
    "an apple": "a round fruit that grows on trees",
    "a dog": "an animal that people keep as a friend",
    "a car": "a machine with four wheels that people drive", "a book": "a set of pages to read",
    "a chair": "a seat for one person", "a clock": "a machine that shows the time",
    "a river": "water that flows to the sea", "a mountain": "a very high hill",
    "a doctor": "a person who helps the sick", "a teacher": "a person who helps others learn",
    "a hammer": "a tool for hitting nails", "an island": "land with water all around it",
    "a desert": "a dry place with little rain",
    "a piano": "a large instrument with black and white keys",
    "a library": "a place full of books", "an umbrella": "a thing that keeps off the rain",
    "a bridge": "a road over water", "a king": "a man who rules a country",
    "a kitchen": "a room for cooking", "bread": "food made from flour and water",
}  # fmt: skip
SPELLED = (
    "cat dog sun moon star tree fish bird house water apple bread chair table green yellow happy "
    "music train horse river stone light night world child heart smile queen dance"
).split()
