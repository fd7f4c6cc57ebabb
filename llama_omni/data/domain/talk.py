"""Greetings, small talk, and the polite refusal of everything else, understood or not."""

from random import Random

from llama_omni.data.domain.topic import Slots, Topic

REFUSAL = "I am sorry, I only know a few simple things."

# Each answer with the ways to ask for it.
_TALK = {
    "Hello! How can I help you?": (
        "hello.", "hi.", "hello there.", "hi there.", "hey.", "good day.",
    ),
    "Good morning! How can I help you?": ("good morning.", "good morning to you."),
    "Good evening! How can I help you?": ("good evening.", "good evening to you."),
    "I am fine, thank you. How are you?": (
        "how are you?", "how are you today?", "how do you do?", "how is it going?",
    ),
    "I am a tiny speech model.": (
        "who are you?", "what are you?", "what is your name?", "tell me your name.",
        "are you a robot?", "are you a person?",
    ),
    "You are welcome.": (
        "thank you.", "thanks.", "thank you very much.", "thanks a lot.", "many thanks.",
    ),
    "Goodbye! Have a nice day.": (
        "goodbye.", "bye.", "see you later.", "bye bye.", "see you soon.",
    ),
    "Good night! Sleep well.": ("good night.", "good night to you."),
    "I can answer simple questions about numbers, days and the world.": (
        "what can you do?", "what can i ask you?", "what do you know?", "how can you help me?",
    ),
    "Yes, I can hear you.": ("can you hear me?", "do you hear me?", "are you there?"),
    "I do not eat, but thank you for asking.": ("are you hungry?", "do you eat?"),
    "I like numbers, and good questions.": ("what do you like?", "what do you love?"),
    "I was born on a computer.": ("where were you born?", "where do you come from?"),
    "Nice to meet you too.": ("nice to meet you.", "pleased to meet you."),
    "That is very kind of you.": ("you are great.", "well done.", "you are clever.", "good job."),
    "No problem at all.": ("sorry.", "i am sorry.", "excuse me."),
}  # fmt: skip
_PAIRS = tuple((question, answer) for answer, asked in _TALK.items() for question in asked)

_OPENINGS = (
    "tell me about {topic}.",
    "tell me a joke about {topic}.",
    "write a poem about {topic}.",
    "what do you think about {topic}?",
    "how do i learn about {topic}?",
    "can you explain {topic} to me?",
    "please explain {topic}.",
    "who invented {topic}?",
    "why is {topic} so important?",
    "where can i buy {topic}?",
    "what is the history of {topic}?",
    "can you help me with {topic}?",
    "give me some advice on {topic}.",
    "what is the best way to enjoy {topic}?",
    "how does {topic} work?",
    "do you know a good book about {topic}?",
    "sing a song about {topic}.",
    "what is the price of {topic}?",
    "how long does it take to understand {topic}?",
    "should i worry about {topic}?",
    "what are the latest news on {topic}?",
    "describe {topic} in three sentences.",
    "compare {topic} with {other}.",
    "is {topic} better than {other}?",
    "what is the difference between {topic} and {other}?",
    "how can i combine {topic} and {other}?",
    "which is cheaper, {topic} or {other}?",
    "i want to talk about {topic}.",
    "let us discuss {topic} and {other}.",
    "what would happen without {topic}?",
)
_TOPICS = (
    "the stock market", "modern art", "quantum physics", "cooking pasta", "my garden",
    "the weather tomorrow", "climate change", "electric cars", "jazz music", "the roman empire",
    "computer games", "football", "chess", "philosophy", "the french revolution", "yoga",
    "healthy food", "my homework", "learning guitar", "space travel", "online shopping",
    "the internet", "politics", "religion", "photography", "the ocean", "coffee", "tea", "bread",
    "chocolate", "train travel", "my neighbours", "raising children", "a job interview", "sleep",
    "headaches", "running shoes", "bicycles", "the human brain", "vitamins", "money", "taxes",
    "poetry", "shakespeare", "classical music", "the piano", "dancing", "theatre", "old movies",
    "television", "painting walls", "fishing", "camping", "mountains", "volcanoes", "earthquakes",
    "dinosaurs", "robots", "programming", "databases", "mathematics", "chemistry", "biology",
    "evolution", "medicine", "dentists", "hospitals", "insurance", "the law", "history", "wars",
    "kings and queens", "castles", "bridges", "architecture", "airports", "hotels", "restaurants",
    "italian food", "recipes", "soup", "cheese", "wine", "gardening", "roses", "trees", "forests",
    "deserts", "rivers", "the moon landing", "telescopes", "clocks", "batteries", "magnets",
    "engines", "plastic", "recycling", "pollution", "energy", "solar panels", "nuclear power",
    "washing machines", "furniture", "fashion", "shoes", "jewellery", "birthday presents",
    "weddings", "friendship", "love", "happiness", "dreams", "memory", "languages", "grammar",
    "handwriting", "newspapers", "radio", "advertising", "marketing", "leadership", "teamwork",
    "stress", "meditation", "swimming", "tennis", "basketball", "the olympics", "skiing",
)  # fmt: skip
_ODD = (
    "what is the weather like today?", "what time is it?", "play some music.",
    "turn on the light.", "set a timer for ten minutes.", "call my mother.",
    "who is the president of the united states?", "who wrote romeo and juliet?",
    "how do i bake a cake?", "what should i wear tomorrow?", "book a table for two.",
    "where is the nearest station?", "how old is the universe?", "who won the game last night?",
    "what is the meaning of life?", "do you believe in ghosts?", "how much does a house cost?",
    "what happened in nineteen eighty-nine?", "translate good morning into german.",
    "remind me to buy milk.", "how do airplanes fly?", "why is the sky so high?",
    "how do you make paper?", "what is my name?", "how tall is mount everest?",
    "who painted the mona lisa?", "how deep is the sea?", "where do i live?",
    "what is the speed of light?", "how many people live on earth?",
    "can you recommend a good film?", "what did you do yesterday?", "read me the news.",
    "tell me a story.", "what is the square root of two?", "how far away is the sun?",
    "what is the capital of the moon?", "what colour is happiness?", "how do i fix my computer?",
    "is it going to rain?", "can you drive a car?", "what language do they speak in brazil?",
)  # fmt: skip


_ONSETS = "b bl br d dr f fl g gl gr h k kl kr l m n p pl r s sk sl sp st t tr v w z".split()
_NUCLEI = "a e i o u ai ee oo ou ar or".split()
_CODAS = ["", "", "", "n", "m", "st", "nd", "k", "t", "p", "sh", "l", "ng", "ck", "ft"]
_SMALL_WORDS = "the a of to is and in my your for with that was on".split()


def _made_up(random: Random) -> str:
    """Return a sentence that means nothing, for speech that cannot be understood."""
    words = []
    for _ in range(random.randint(3, 8)):
        if random.random() < 0.25:
            words.append(random.choice(_SMALL_WORDS))
            continue
        parts = (_ONSETS, _NUCLEI, _CODAS)
        syllables = random.randint(1, 2)
        words.append("".join(random.choice(part) for _ in range(syllables) for part in parts))
    return f"{' '.join(words)}{random.choice('.?')}"


def _talk(random: Random) -> Slots:
    question, answer = random.choice(_PAIRS)
    return {"question": question, "answer": answer}


def _outside(random: Random) -> Slots:
    kind = random.random()
    if kind < 0.15:
        return {"question": random.choice(_ODD)}
    if kind < 0.4:
        return {"question": _made_up(random)}
    topic, other = random.sample(_TOPICS, 2)
    return {"question": random.choice(_OPENINGS).format(topic=topic, other=other)}


TOPICS = (
    Topic(
        name="small_talk",
        weight=3.0,
        draw=_talk,
        wordings=("{question}",),
        answer="{answer}",
    ),
)
OUTSIDE = Topic(
    name="outside",
    weight=4.0,
    draw=_outside,
    holds_out_items=True,
    wordings=("{question}",),
    answer=REFUSAL,
)
