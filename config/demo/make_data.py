#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Text of a small invented world, for the demo model: questions and answers, chats, stories.

Everything is generated here from the tables below; nothing is taken from elsewhere. One
seed gives one text. Phrasings in HELD_OUT are never trained on: train.py measures with them.
"""
import random

# name: pronoun, job, town, animal, animal's name, colour, food, hobby, age
PEOPLE = {
    "Anna": ("she", "baker", "Northford", "cat", "Minka", "blue", "apple pie", "paints pictures", 34),
    "Ben": ("he", "fisherman", "Saltbay", "dog", "Rusty", "green", "fish soup", "plays the guitar", 41),
    "Clara": ("she", "doctor", "Millbrook", "rabbit", "Snowy", "white", "pancakes", "rides her bicycle", 38),
    "David": ("he", "teacher", "Northford", "parrot", "Pico", "red", "noodles", "plays chess", 45),
    "Emma": ("she", "gardener", "Greenhill", "tortoise", "Olga", "yellow", "tomato salad", "sings in a choir", 29),
    "Felix": ("he", "carpenter", "Oakham", "horse", "Thunder", "brown", "roast potatoes", "builds model ships", 52),
    "Grace": ("she", "pilot", "Saltbay", "owl", "Luna", "silver", "rice and beans", "looks at the stars", 36),
    "Henry": ("he", "farmer", "Greenhill", "goat", "Bella", "orange", "bread and cheese", "dances on Sundays", 60),
    "Ida": ("she", "librarian", "Millbrook", "hamster", "Button", "purple", "honey cake", "writes poems", 27),
    "Jonas": ("he", "blacksmith", "Oakham", "donkey", "Pepper", "black", "mushroom stew", "climbs mountains", 48),
    "Kara": ("she", "singer", "Riverton", "duck", "Daisy", "pink", "strawberries", "knits long scarves", 25),
    "Leo": ("he", "postman", "Riverton", "pig", "Truffle", "gold", "lemon ice cream", "collects old maps", 31),
}
TOWNS = {
    "Northford": ("an old stone bridge", "north"), "Saltbay": ("a tall lighthouse", "west"),
    "Millbrook": ("a water mill", "south"), "Greenhill": ("its apple orchards", "east"),
    "Oakham": ("a thousand year old oak", "middle"), "Riverton": ("a big Saturday market", "south"),
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]
OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "day": "night", "fast": "slow", "happy": "sad",
             "old": "young", "open": "closed", "full": "empty", "light": "dark", "hard": "soft", "wet": "dry",
             "early": "late", "loud": "quiet", "rich": "poor", "long": "short", "high": "low", "left": "right"}
OPPOSITES.update({v: k for k, v in list(OPPOSITES.items())})
COLOURS = {"the sky": "blue", "grass": "green", "snow": "white", "a lemon": "yellow", "coal": "black",
           "a ripe tomato": "red", "a carrot": "orange", "chocolate": "brown"}
SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "sheep": "baa", "duck": "quack", "pig": "oink",
          "owl": "hoo", "rooster": "cock-a-doodle-doo"}
CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Poland": "Warsaw",
            "Austria": "Vienna", "Japan": "Tokyo", "Egypt": "Cairo", "Norway": "Oslo", "Canada": "Ottawa",
            "Greece": "Athens", "Portugal": "Lisbon"}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
           "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
UNKNOWN = "I do not know that. I only know the small world that I was trained on."


def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def join(names):
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def facts():
    """(kind, list of phrasings, answer); the last phrasing is held out from training."""
    out = []
    for name, (pro, job, town, animal, pet, colour, food, hobby, age) in PEOPLE.items():
        his = "his" if pro == "he" else "her"
        out += [
            ("job", [f"What is {name}'s job?", f"What does {name} do for a living?", f"What work does {name} do?",
                     f"What is the job of {name}?", f"What does {name} work as?"], f"{name} is {an(job)}."),
            ("town", [f"Where does {name} live?", f"In which town does {name} live?", f"What town is {name} from?",
                      f"Where is the home of {name}?", f"Which town does {name} live in?"], f"{name} lives in {town}."),
            ("pet", [f"What pet does {name} have?", f"Which animal does {name} have?", f"Does {name} have a pet?",
                     f"What kind of pet does {name} own?", f"What animal does {name} own?"],
             f"{name} has {an(animal)} called {pet}."),
            ("pet name", [f"What is the name of {name}'s {animal}?", f"What is {name}'s {animal} called?",
                          f"How is {name}'s {animal} called?", f"What's the name of {name}'s {animal}?"],
             f"{name}'s {animal} is called {pet}."),
            ("colour", [f"What is {name}'s favourite colour?", f"What is {name}'s favorite color?",
                        f"Which colour does {name} like best?", f"Which color does {name} like?",
                        f"What colour does {name} like most?"], f"{name}'s favourite colour is {colour}."),
            ("food", [f"What is {name}'s favourite food?", f"What does {name} like to eat?",
                      f"What food does {name} like?", f"What is {name}'s favorite food?",
                      f"What does {name} love to eat?"], f"{name} likes to eat {food}."),
            ("hobby", [f"What does {name} do in {his} free time?", f"What is {name}'s hobby?",
                       f"What hobby does {name} have?", f"What does {name} do after work?",
                       f"What does {name} do for fun?"], f"In {his} free time {name} {hobby}."),
            ("age", [f"How old is {name}?", f"What is {name}'s age?", f"What is the age of {name}?",
                     f"Can you say how old {name} is?"], f"{name} is {age} years old."),
            ("who", [f"Who is {name}?", f"Tell me about {name}.", f"What do you know about {name}?",
                     f"What can you tell me about {name}?"],
             f"{name} is {an(job)} from {town}. {pro.capitalize()} has {an(animal)} called {pet} and likes to eat {food}."),
            ("who job", [f"Who is the {job}?", f"Who is {an(job)}?", f"Which person is {an(job)}?",
                         f"Who works as {an(job)}?"], f"{name} is the {job}."),
            ("who pet", [f"Who has {an(animal)}?", f"Who owns {an(animal)}?", f"Whose pet is {an(animal)}?",
                         f"Which person has {an(animal)}?"], f"{name} has {an(animal)} called {pet}."),
            ("who petname", [f"Who is {pet}?", f"What animal is {pet}?", f"Whose animal is {pet}?"],
             f"{pet} is {name}'s {animal}."),
        ]
    for town, (sight, where) in TOWNS.items():
        people = [n for n, p in PEOPLE.items() if p[2] == town]
        out += [
            ("who town", [f"Who lives in {town}?", f"Which people live in {town}?", f"Who is from {town}?",
                          f"Do you know who lives in {town}?"], f"{join(people)} live in {town}."),
            ("sight", [f"What is {town} known for?", f"What can I see in {town}?", f"What is there in {town}?",
                       f"What is special about {town}?"], f"{town} is known for {sight}."),
            ("where", [f"Where is {town}?", f"Where does {town} lie?", f"In which part of the country is {town}?"],
             f"{town} is in the {where} of the country."),
        ]
    for i, day in enumerate(DAYS):
        after, before = DAYS[(i + 1) % 7], DAYS[i - 1]
        out.append(("day", [f"What day comes after {day}?", f"Which day comes after {day}?", f"What is the day after {day}?",
                            f"Which day follows {day}?"], f"{after} comes after {day}."))
        out.append(("day", [f"What day comes before {day}?", f"Which day comes before {day}?",
                            f"What is the day before {day}?"], f"{before} comes before {day}."))
    for i, month in enumerate(MONTHS):
        out.append(("month", [f"What month comes after {month}?", f"Which month comes after {month}?",
                              f"Which month follows {month}?"], f"{MONTHS[(i + 1) % 12]} comes after {month}."))
    for a, b in OPPOSITES.items():
        out.append(("opposite", [f"What is the opposite of {a}?", f"What's the opposite of {a}?", f"The opposite of {a}?",
                                 f"Which word is the opposite of {a}?"], f"The opposite of {a} is {b}."))
    for thing, colour in COLOURS.items():
        out.append(("thing", [f"What colour is {thing}?", f"What color is {thing}?", f"Which colour has {thing}?",
                              f"Which colour is {thing}?"], f"{thing[0].upper() + thing[1:]} is {colour}."))
    for animal, sound in SOUNDS.items():
        out.append(("sound", [f"What does {an(animal)} say?", f"What sound does {an(animal)} make?",
                              f"Which sound does the {animal} make?", f"What does the {animal} say?"],
                    f"The {animal} says {sound}."))
    for country, city in CAPITALS.items():
        out.append(("capital", [f"What is the capital of {country}?", f"What's the capital of {country}?",
                                f"What is the capital city of {country}?", f"Which city is the capital of {country}?"],
                    f"The capital of {country} is {city}."))
    for a in range(11):
        for b in range(11):
            out.append(("sum", [f"What is {a} plus {b}?", f"What is {a} + {b}?", f"How much is {a} plus {b}?",
                                f"How much is {a} + {b}?"], f"{a} plus {b} is {a + b}."))
    for n in range(2, 11):
        out.append(("count", [f"Count to {n}.", f"Please count to {NUMBERS[n]}.", f"Can you count to {NUMBERS[n]}?",
                              f"Count from one to {NUMBERS[n]}."], ", ".join(NUMBERS[1:n + 1]).capitalize() + "."))
    return out


TALK = [
    (["Hello!", "Hi", "Hi there!", "Good morning!", "Good evening.", "Hey", "Hello, how are you?"],
     ["Hello! How can I help you?", "Hello! What would you like to know?"]),
    (["Who are you?", "What are you?", "What is your name?", "Are you a robot?", "Who made you?", "Introduce yourself."],
     ["I am the Tokenlane demo model, a very small language model. I know a little world of people, towns and animals."]),
    (["What can you do?", "What do you know?", "Help", "How can you help me?", "What can I ask you?"],
     ["I can tell you about people like Anna, Ben or Clara, about their towns and animals, and I can tell small stories."]),
    (["What is Tokenlane?", "Tell me about Tokenlane.", "What does Tokenlane do?"],
     ["Tokenlane is an inference daemon for language models. It is running me right now."]),
    (["Thank you!", "Thanks", "Thanks a lot!", "Great, thank you.", "Nice."], ["You are welcome!"]),
    (["Goodbye!", "Bye", "See you later.", "Good night!"], ["Goodbye! Have a nice day."]),
    (["Who are the people you know?", "Which people do you know?", "List the people you know."],
     ["I know " + join(list(PEOPLE)) + "."]),
    (["Which towns do you know?", "What towns are there?", "List the towns."], ["I know " + join(list(TOWNS)) + "."]),
]
STRANGE = [f"{q} {x}?" for q in ("What is", "Who is", "Tell me about", "Explain", "How does one make", "Where is",
                                  "What do you think about", "How old is", "Where does one find")
           for x in ("quantum physics", "the president", "Shakespeare", "a neural network", "the moon landing", "Python",
                     "the stock market", "Napoleon", "a black hole", "the internet", "Mars", "inflation", "beer",
                     "my brother", "Peter", "Susan", "Oliver", "Atlantis", "the meaning of life", "a computer",
                     "the weather in London", "football", "Brazil", "New York", "gravity", "Einstein")]

WEATHER = ["sunny", "rainy", "windy", "cold", "foggy", "warm", "snowy"]
PLACES = ["in the forest", "by the river", "at the market", "on the hill", "near the old bridge", "on the beach",
          "in the garden", "behind the mill"]
FINDS = ["a golden key", "an old map", "a little bird", "a red balloon", "a lost letter", "a silver coin",
         "a big pumpkin", "a strange stone", "a wooden box", "a sleeping hedgehog"]
ENDS = ["It was a good day.", "They laughed all the way home.", "Everybody was happy.", "And they never forgot that day.",
        "That night they slept very well.", "Soon the whole town knew the story."]


def story(rng, name=None):
    name = name or rng.choice(list(PEOPLE))
    pro, job, town, animal, pet, colour, food, hobby, _ = PEOPLE[name]
    friend = rng.choice([n for n in PEOPLE if n != name])
    fpro, fjob, _, fanimal, fpet, _, _, _, _ = PEOPLE[friend]
    weather, place, find, end = rng.choice(WEATHER), rng.choice(PLACES), rng.choice(FINDS), rng.choice(ENDS)
    he, him, his = (pro, "him", "his") if pro == "he" else (pro, "her", "her")
    He = he.capitalize()
    day = rng.choice(DAYS)
    parts = [
        rng.choice([f"Once upon a time there was {an(job)} called {name}. {He} lived in {town} with {an(animal)} called {pet}.",
                    f"{name} the {job} lived in {town}. {He} had {an(animal)} called {pet}.",
                    f"In {town} there lived {an(job)} called {name}, and {he} had {an(animal)} called {pet}."]),
        rng.choice([f"One {weather} {day} {name} and {pet} went for a walk {place}.",
                    f"It was a {weather} {day}, and {name} was {place} with {pet}."]),
        rng.choice([f"Suddenly {pet} stopped and looked at something. It was {find}!",
                    f"There {he} found {find}."]),
        rng.choice([f'"What is this?" said {name}. {He} took it to {friend} the {fjob}.',
                    f"{name} showed it to {friend}, who is {an(fjob)}.",
                    f"Then {friend} came along with {fpet} the {fanimal}."]),
        rng.choice([f'"How wonderful!" said {friend}. They sat down together and ate {food}.',
                    f"{friend} smiled and said, \"Keep it, {name}, it will bring you luck.\" Then they ate {food}.",
                    f"Together they carried it home, and {name} painted it {colour}."]),
        end,
    ]
    return " ".join(parts)


def vary(rng, question):
    """Small changes that a person makes."""
    r = rng.random()
    if r < 0.25:
        question = question[0].lower() + question[1:]
    elif r < 0.35:
        question = question.lower()
    if rng.random() < 0.25 and question[-1] in "?.":
        question = question[:-1]
    if rng.random() < 0.12:
        question = rng.choice(["Please tell me: ", "Hey, ", "I have a question. ", "So, ", "Do you know this? ", "ok, "]) + question
    return question


def exchange(rng, pool):
    r = rng.random()
    if r < 0.80:
        _, phrasings, answer = rng.choice(pool[rng.choice(list(pool))])
        return vary(rng, rng.choice(phrasings[:-1])), answer
    if r < 0.88:
        questions, answers = rng.choice(TALK)
        return vary(rng, rng.choice(questions)), rng.choice(answers)
    if r < 0.93:
        return vary(rng, rng.choice(STRANGE)), UNKNOWN
    if rng.random() < 0.5:
        return vary(rng, rng.choice(["Tell me a story.", "Please tell me a short story.", "Can you tell me a story?",
                                     "I want to hear a story.", "Write a little story."])), story(rng)
    name = rng.choice(list(PEOPLE))
    return vary(rng, rng.choice([f"Tell me a story about {name}.", f"Can you tell me a story about {name}?",
                                 f"Write a story about {name}.", f"I want a story about {name}."])), story(rng, name)


SYSTEMS = [None, None, None, "You are a helpful assistant.", "You are the Tokenlane demo model.",
           "You answer questions in short sentences.", "Be friendly."]


def fact_pool():
    pool = {}
    for fact in facts():
        pool.setdefault(fact[0], []).append(fact)
    return pool


def document(rng, pool):
    """A list of (text, learn) pieces."""
    if rng.random() < 0.12:
        return [(story(rng), True), ("<|endoftext|>", True)]
    pieces = []
    system = rng.choice(SYSTEMS)
    if system:
        pieces.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    for _ in range(rng.choice([1, 1, 2, 3])):
        question, answer = exchange(rng, pool)
        pieces.append((f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces.append((f"{answer}<|im_end|>", True))
        pieces.append(("\n", False))
    pieces.append(("<|endoftext|>", False))
    return pieces


def held_out():
    """(question, answer) in phrasings that are never trained on."""
    return [(phrasings[-1], answer) for _, phrasings, answer in facts()]


if __name__ == "__main__":
    generator = random.Random(1)
    facts_by_kind = fact_pool()
    for _ in range(12):
        print("".join(text for text, _ in document(generator, facts_by_kind)), "\n")
    print(sum(len(v) for v in facts_by_kind.values()), "facts")
