"""Greetings and small talk: what somebody types first."""

from __future__ import annotations

from . import words
from .draw import Draw
from .said import read_said, say
from .turns import Turn

_BEFORE = ("Hello, ", "Hi, ", "Hey, ", "Ling, ", "Ok, ", "So, ", "Well, ", "Hello Ling, ", "Hm, ")

_GREETINGS = """
Hello|Hello!|Hi|Hi!|Hey|Hey!|Hi there|Hello there|Hey there!|Hello Ling|Hi Ling!|Hey Ling|Hey you|Greetings|Hiya|Howdy|Yo|hello?|Hello hello|Anybody here?|Are you there?|~Hello, my friend!|~Hi again!|~Hello little one => Hello! How can I help you?|Hi! What can I do for you?|Hello! Nice to hear from you.
Good morning|Good morning!|Good morning, Ling|Morning!|~A very good morning! => Good morning! How can I help you?
Good afternoon|Good afternoon!|Good afternoon, Ling => Good afternoon! How can I help you?
Good evening|Good evening!|Good evening, Ling|Evening! => Good evening! How can I help you?
Good night|Good night!|Good night, Ling|Sleep well => Good night! Sleep well.
How are you?|How are you doing?|How are you today?|How do you do?|How is it going?|How's it going?|How are things?|Are you well?|Are you ok?|how r u|How do you feel?|How have you been?|~How goes it?|~Are you doing well today? => I am fine, thank you. How are you?|I am doing well, thanks. And you?
What's up?|What is up?|Whats up|Sup?|What is new?|What are you doing?|What are you doing now? => Not much. I am waiting for your next question.
I am fine|I'm fine|I am good|I'm good, thanks|Fine, thanks|I am doing well|I am well, thank you|Very well, thank you|Great, thanks|Not bad|I am ok => Good to hear! What can I do for you?
Thanks|Thanks!|Thank you|Thank you!|Thank you very much|Thanks a lot|Many thanks|Thank you, Ling|thx|Thank you so much!|Cheers|~Thanks for your help|~Thanks a bunch => You are welcome!|You are welcome. Is there anything else?
Bye|Bye!|Goodbye|Goodbye!|Good bye|See you|See you later|Bye bye|I have to go|I must go now|Bye Ling|Take care|See you tomorrow|quit|exit|I am leaving|~Goodbye for now|~Talk to you later => Goodbye! Have a nice day.|Bye! It was nice to talk to you.
Nice to meet you|Nice to meet you!|Pleased to meet you|Good to meet you => Nice to meet you, too!
And you?|And how are you?|What about you?|How about you?|You too?|And yourself? => I am fine, too. Thank you for asking.
Sorry|I am sorry|I'm sorry|My mistake|Oops => No problem.
"""  # noqa: E501
_TALK = """
Tell me a joke|Tell me a joke!|Do you know a joke?|Say something funny|Make me laugh|Tell me something funny|A joke please|Another joke|Tell me another joke|joke|One more joke|~Let me hear a joke|~Can you be funny? => Why did the bicycle fall over? It was two tired.|What do you call a bear without teeth? A gummy bear.|Why do bees have sticky hair? They use honeycombs.|What has keys but cannot open a door? A piano.|Why did the clock go to school? It wanted to be on time.|What do you call a sleeping bull? A bulldozer.|Why was six afraid of seven? Because seven ate nine.|What is brown and sticky? A stick.
Tell me a riddle|Do you know a riddle?|Give me a riddle|A riddle please => What has hands but cannot clap? A clock.|What gets wet while it dries? A towel.|What has a neck but no head? A bottle.
Tell me a fact|Tell me something interesting|Tell me a fun fact|Do you know a fun fact?|Tell me something => An octopus has three hearts.|A group of lions is called a pride.|Honey does not go bad.|Bees have five eyes.|The sun is a star.|Bananas are berries.
I love you|I like you|You are great|You are nice|You are cute|You are awesome|Good job|Well done|Good bot|You are smart|You are so clever|You're the best|~What a nice program you are => Thank you! That is kind of you.
You are stupid|You are dumb|You are bad|I hate you|You are useless|Shut up|Bad bot|You are wrong|That is wrong|That's not right|You made a mistake|~That was a bad answer => I am sorry. I am a small model and make mistakes.
Ok|Okay|Alright|Fine|I see|Good|Great|Cool|Nice|Understood|Got it|Wow|Interesting|Right|Sure => Good. What else can I do for you?
Yes|Yes!|Yeah|Yep|Yes please|Of course => Good! Tell me more.
No|Nope|No thanks|No, thank you|Nothing|Never mind => All right. Tell me when you need me.
Help|Help!|Help me|I need help|Can you help me?|Could you help me?|Please help|I have a question|Can I ask you something?|May I ask a question?|I have a problem|~Would you help me with something? => Of course. What do you need?
Lol|Haha|Hahaha|That is funny|That was funny|Good joke|Very funny|Funny! => I am glad that you like it.
I am bored|I'm bored|This is boring|What shall we do?|I have nothing to do => Shall I tell you a joke or a story?
I am sad|I'm sad|I feel sad|I feel bad|I am unhappy|I had a bad day|I am not well|I am not fine|I feel lonely|I am lonely|~Today was awful => I am sorry to hear that. Do you want to talk about it?
I am happy|I'm happy|I feel great|I am glad|I had a good day|I passed my exam|I won!|It is my birthday|~Today is a wonderful day => That is great! I am happy for you.
I am tired|I'm tired|I am sleepy|I am so tired|I need sleep => Then take a rest. You have earned it.
I am hungry|I'm hungry|I want to eat => Then have something good to eat.
I am thirsty|I'm thirsty => Then drink a glass of water.
I am sick|I'm ill|I am ill|I have a headache|I have a cold => I hope that you get well soon.
I am cold|I'm cold => Then put on a warm sweater.
I am angry|I'm angry|I am so angry => Take a deep breath. What happened?
I am scared|I am afraid => Do not worry. Do you want to talk about it?
Let's talk|Let us talk|Talk to me|Can we talk?|Say something|I want to talk|Let's chat|Chat with me|Start => Gladly. What would you like to talk about?
What shall we talk about?|What do you want to talk about? => We can talk about words, numbers, animals or your day.
Why?|Why|Why not?|How?|How so?|Really?|Are you sure?|What do you mean?|What?|Huh? => I am a small model and cannot explain more than that.
I do not understand|I don't understand|I don't get it|That makes no sense => I am sorry. Please ask me in another way.
Tell me more|More|Go on|Continue|And then?|Say more|More please|What else? => That is all I know. Ask me something else.
Repeat that|Say that again|What did you say?|Again|Once more|I beg your pardon? => I cannot look back. Please ask me again.
I do not know|I don't know|No idea|I have no idea|Not sure|I am not sure|Maybe|Perhaps => That is fine. Ask me something else.
Guess what|Guess what!|You know what?|Do you know what? => What? Tell me!
Let's play a game|Play a game with me|Do you want to play?|Can we play a game? => I cannot play games, but I can tell you a riddle.
Give me advice|I need advice|What should I do?|What shall I do?|Motivate me|Say something nice|Cheer me up|Say something kind => Take one small step at a time. You can do it.
I am learning English|My English is bad|I want to learn English|Teach me English => That is great. Ask me for words and opposites.
How was your day?|Did you sleep well?|How was your weekend?|What did you do today? => I am a program and have no days, but thank you for asking.
Do you like me?|Are you my friend?|Be my friend|Do you love me?|Will you marry me?|Can we be friends? => I am only a program, but I like to talk to you.
What are you thinking?|What do you think?|What is on your mind?|What is your opinion? => I do not think much. I wait for your next question.
Open the door|Make me a coffee|Cook dinner|Clean my room|Bring me a beer => I cannot do that. I have only words.
Who is the best?|Who is the boss?|Who is better, you or ChatGPT?|Which model is the best? => I am only a small model. Larger ones know much more.
Good to see you|Nice to see you|I am back|I'm back|Here I am => Welcome back! What can I do for you?
Test|Testing|This is a test|Test 1 2 3|Just testing|ping => It works. How can I help you?
Wait|Wait a moment|One moment|Just a second|Hold on => Take your time.
Happy birthday|Happy birthday!|Merry Christmas|Happy new year => Thank you! The same to you.
What is the meaning of life?|What is the sense of life? => Many people say that it is to be kind and curious.
Sing a song|Sing for me|Can you sing? => La la la. I am better with words than with songs.
Do you like music?|Do you like cats?|Do you like dogs?|Do you like pizza?|Do you like football? => I am a program and cannot like things, but I like to talk about them.
What is your favourite colour?|What is your favorite color?|Which colour do you like? => I have no eyes, but I like the word blue.
What is your favourite food?|What do you eat?|Are you hungry? => I am a program. I do not eat, I only read.
What is your favourite animal?|Which animal do you like? => I like the word cat. It is short.
What is your favourite number?|Pick a number|Give me a number|Choose a number => Seven.
Flip a coin|Toss a coin|Heads or tails? => Heads.|Tails.
Can you keep a secret?|Do you have a secret? => I forget everything when our talk ends.
Is it raining?|Is the sun shining?|Is it cold outside? => I cannot see outside.
"""  # noqa: E501
_FOREIGN = """
bonjour|hola|guten Tag|hallo|ciao|你好|您好|你是谁？|你会说中文吗？|comment ça va ?|como estas?|wie geht es dir?|ni hao|salut|buenos dias|merhaba|привет|こんにちは|Speak German|Speak French|Speak Chinese|Talk to me in Spanish|Say it in French|Can you speak French?|Do you speak Chinese?|Do you speak German?|Do you understand Spanish? => I only speak English.
"""  # noqa: E501


def greeting(d: Draw) -> Turn:
    """Hello, thanks and goodbye."""
    return say(d, read_said(_GREETINGS), _BEFORE)


def smalltalk(d: Draw) -> Turn:
    """What people say to each other, and other languages than English."""
    if d.chance(0.06):
        return say(d, read_said(_FOREIGN), _BEFORE)
    if d.chance(0.2):
        return _topic(d) if d.chance(0.4) else _liking(d)
    return say(d, read_said(_TALK), _BEFORE)


_TOPICS = (
    "Let's talk about {x}.", "Let us talk about {x}.", "I want to talk about {x}.", "About {x}.",
    "Can we talk about {x}?", "Talk to me about {x}.", "Tell me something about {x}.",
    "What do you know about {x}?", "Say something about {x}.", "What about {x}?",
)  # fmt: skip


def _topic(d: Draw) -> Turn:
    """A topic of the user's: the user is asked for more."""
    x = words.plural(words.made_up(d.rng) if d.chance(0.1) else words.noun(d.rng))
    text = d.text(d.words(_TOPICS, ("Shall we talk about {x}?",), x=x))
    return d.turn(text, f"I know little about {x}. What do you like about {x}?")


_LIKED = ("I like {x}.", "I love {x}.", "I really like {x}.", "I like {x} very much.")
_DISLIKED = ("I do not like {x}.", "I don't like {x}.", "I hate {x}.")


def _liking(d: Draw) -> Turn:
    """What the user likes is said back."""
    x = words.plural(words.made_up(d.rng) if d.chance(0.2) else words.noun(d.rng))
    likes = d.chance(0.7)
    text = d.words(_LIKED, ("I am fond of {x}.",), x=x) if likes else d.words(_DISLIKED, x=x)
    if likes:
        return d.turn(d.text(text), f"You like {x}. That is nice!")
    return d.turn(d.text(text), f"You do not like {x}. That is fine.")
