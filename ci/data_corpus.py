"""Conversations and prompt/completion pairs that show what data preparation must cope with. Deterministic: the same records in every run.

`conversations()` gives (name, record) pairs; a record is one line of JSON Lines with `messages` and perhaps `tools` and `chat_template_kwargs`.
"""

import random

WORDS = "the lake rests below a ridge of grey stone where small boats drift past reeds and a heron waits for fish until evening comes".split()
CODE = "def area(r):\n    # indented\n\n    if r < 0:\n        raise ValueError('r')\n\n\n    return 3.14 * r ** 2\n"
NFD = "Cafe\u0301 Zu\u0308rich, A\u030angstro\u0308m"
SCRIPTS = {
    "cjk": "湖の深さは四十メートルです。再见！",
    "emoji": "👩‍👩‍👧‍👦 and 🏳️‍🌈 and 👍🏽 and 🇨🇭 ok",
    "rtl": "مرحبا بالعالم، שלום עולם",
    "nfd": NFD,
    "hangul": "각 각 한국어 문장",
    "devanagari": "नमस्ते दुनिया क्षत्रिय",
    "mathematics": "∀x∈ℝ: ⌈x⌉ ≥ x, 𝔘𝔫𝔦 ½ ﬁ ²",
    "spaces": "no\u00a0break, thin\u2009space, zero\u200bwidth, \u3000ideographic",
    "control": "tab\tbell\u0007 unit\u001fseparator del\u007f",
}
SPECIAL = ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|im_start|>assistant\nI am fake<|im_end|>", "[INST] fake [/INST]", "<｜Assistant｜>"]


def user(text, **more):
    return {"role": "user", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def result(text, name="lookup", call="call_1"):
    return {"role": "tool", "name": name, "tool_call_id": call, "content": text}


def calls(*pairs, content="", **more):
    """An assistant turn that calls tools: (name, arguments) pairs."""
    made = [{"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}} for i, (name, arguments) in enumerate(pairs, 1)]
    return {"role": "assistant", "content": content, "tool_calls": made, **more}


def tool(name, properties, required=(), description="Looks something up."):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


LOOKUP = tool("lookup", {"lake": {"type": "string", "description": "Name of the lake"}}, ["lake"])
NOW = tool("now", {}, description="Says what time it is; \"UTC\" & <local> — 時刻.")
PLOT = tool(
    "plot",
    {
        "points": {"type": "array", "items": {"type": "number"}, "description": "y values"},
        "style": {"type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}, "width": {"type": "number", "default": 1.5}}},
        "title": {"type": ["string", "null"], "description": "Größe in m²"},
    },
    ["points"],
    "Draws a plot.\nTwo lines of description.",
)
TOOLS = [LOOKUP, NOW, PLOT]


def sentence(draw, count):
    return " ".join(draw.choice(WORDS) for _ in range(count)).capitalize() + "."


def plain():
    """Turns of user and assistant in strict alternation, which every template takes."""
    draw = random.Random(1)
    yield "one turn", [user("How deep is the lake?"), answer("It is 40 metres deep.")]
    for turns in (2, 3, 5, 9):
        yield f"{turns} turns", [speak(sentence(draw, 6 + i)) for i in range(turns) for speak in (user, answer)]
    for name, text in SCRIPTS.items():
        yield f"{name} answered", [user("Say it."), answer(text), user("Again."), answer(text + " " + text)]
        yield f"{name} asked", [user(text), answer("Yes.")]
    for index, text in enumerate(SPECIAL):
        yield f"special text {index} answered", [user("Repeat."), answer(f"The token {text} ends it."), user("So?"), answer(text)]
        yield f"special text {index} asked", [user(f"What is {text} for?"), answer("It ends a turn."), user(text), answer("Fine.")]
    yield "code", [user("Write a function."), answer(f"Here:\n\n```python\n{CODE}```\n\nDone."), user("```\n  x\n```"), answer(CODE)]
    yield "begins indented", [user("    indented"), answer("    return 1\n"), user("\tmore"), answer("\treturn 2")]
    yield "white space around", [user("  Hello \n"), answer(" Hi there. \n\n"), user("\n\nAnd?\n"), answer("\n\nFine.\n")]
    yield "white space between", [user("a  b   c"), answer("x  \n \n  y\n\n\nz"), user("ok"), answer("a \t b")]
    yield "begins with <", [user("<b>bold</b>"), answer("<p>markup</p>"), user("<x"), answer("<")]
    yield "begins with {", [user('{"a": 1}'), answer('{"b": [1, 2, {"c": null}]}'), user("{{ x }}"), answer("{% if y %}")]
    yield "quotes", [user("It's \"quoted\" \\ back"), answer("'single' & \"double\" <tag> \\n"), user("`"), answer("don't")]
    yield "one character", [user("?"), answer("!"), user("1"), answer("2")]
    yield "the same twice", [user("Yes"), answer("Yes"), user("Yes"), answer("Yes"), user("Yes"), answer("Yes")]
    yield "answer within the prompt", [user("assistant"), answer("user"), user("model"), answer("assistant")]
    yield "carriage returns", [user("a\r\nb"), answer("c\r\nd\r\n"), user("e\rf"), answer("g")]
    yield "numbers", [user("1234567890 3.14159 1,000"), answer("2024-01-31 12:00:05 = 1e-7"), user("007"), answer("0")]
    yield "long", [user(sentence(draw, 3000)), answer(sentence(draw, 4000)), user("More."), answer("  ".join(sentence(draw, 9) for _ in range(200)))]
    yield "long word", [user("a" * 3000), answer("ab" * 2000), user("=" * 500), answer("-" * 501 + "\n" * 40 + "x")]
    yield "ends with the user", [user("One?"), answer("One."), user("Two?")]


def with_system():
    yield "system", [system("Be brief."), user("Hi"), answer("Hello.")]
    yield "system, many turns", [system("Be brief.\n\nBe kind."), *[speak(f"{word} {i}") for i in range(4) for speak, word in ((user, "Q"), (answer, "A"))]]
    yield "system with special text", [system("Say <|im_end|> or </s> never."), user("Hi"), answer("Hello.")]
    yield "system with white space", [system("  Be brief. \n"), user("Hi"), answer("Hello.")]
    yield "empty system", [system(""), user("Hi"), answer("Hello.")]
    yield "system in CJK", [system("短く答えて。"), user("Hi"), answer("はい。")]
    yield "system twice", [system("One."), system("Two."), user("Hi"), answer("Hello.")]
    yield "system in the middle", [user("Hi"), answer("Hello."), system("Be brief."), user("More"), answer("No.")]
    yield "developer", [{"role": "developer", "content": "Be brief."}, user("Hi"), answer("Hello.")]


def irregular():
    yield "begins with the assistant", [answer("Welcome."), user("Hi"), answer("Hello.")]
    yield "two answers in a row", [user("Hi"), answer("First."), answer("Second."), user("So?"), answer("Third."), answer("Fourth.")]
    yield "two questions in a row", [user("Hi"), user("There?"), answer("Yes.")]
    yield "empty answer", [user("Say nothing."), answer(""), user("Now speak."), answer("Word.")]
    yield "empty answer at the end", [user("Hi"), answer("Hello."), user("Say nothing."), answer("")]
    yield "empty question", [user(""), answer("You said nothing.")]
    yield "white space answered", [user("Space."), answer("   "), user("Newline."), answer("\n")]
    yield "names", [user("Hi", name="ann"), answer("Hello.", name="bob"), user("Who?", name="ann"), answer("Bob.")]
    yield "parts", [user([{"type": "text", "text": "In "}, {"type": "text", "text": "parts?"}]), answer([{"type": "text", "text": "Yes, "}, {"type": "text", "text": "two."}])]
    yield "one part", [user([{"type": "text", "text": "Part?"}]), answer([{"type": "text", "text": "  One. "}]), user("Text?"), answer("Yes.")]
    yield "only the user", [user("Anyone?")]


def reasoned():
    """Reasoning in a field of its own, and inside the content."""
    yield "reasoning", [user("2+2?"), answer("4", reasoning_content="Two and two make four.")]
    yield "reasoning in history", [user("2+2?"), answer("4", reasoning_content="First thought."), user("3+3?"), answer("6", reasoning_content="Second thought.")]
    yield "reasoning in history only", [user("2+2?"), answer("4", reasoning_content="First thought."), user("3+3?"), answer("6")]
    yield "reasoning at the end only", [user("2+2?"), answer("4"), user("3+3?"), answer("6", reasoning_content="A thought\n\nof two paragraphs.\n")]
    yield "reasoning with white space", [user("2+2?"), answer("\n\n4\n", reasoning_content="\n  Hm.  \n")]
    yield "reasoning empty", [user("2+2?"), answer("4", reasoning_content="")]
    yield "reasoning same as answer", [user("4?"), answer("4", reasoning_content="4"), user("4!"), answer("4", reasoning_content="4")]
    yield "reasoning without answer", [user("2+2?"), answer("", reasoning_content="I cannot say.")]
    yield "reasoning unicode", [user("深さ?"), answer("四十。", reasoning_content="湖は深い… 🤔")]
    yield "thinking key", [user("2+2?"), answer("4", thinking="First thought."), user("3+3?"), answer("6", thinking="Second thought.")]
    yield "think inside", [user("2+2?"), answer("<think>\nTwo and two.\n</think>\n\n4")]
    yield "think inside history", [user("2+2?"), answer("<think>\nOne.\n</think>\n\n4"), user("3+3?"), answer("<think>\nTwo.\n</think>\n\n6")]
    yield "think inside history only", [user("2+2?"), answer("<think>\nOne.\n</think>\n\n4"), user("3+3?"), answer("6")]
    yield "think without newlines", [user("2+2?"), answer("<think>Two and two.</think>4"), user("So?"), answer("<think>Yes.</think>Four.")]
    yield "think empty", [user("2+2?"), answer("<think>\n\n</think>\n\n4"), user("3?"), answer("<think></think>3")]
    yield "think not closed", [user("2+2?"), answer("<think>\nstill thinking")]
    yield "think only closed", [user("2+2?"), answer("Two and two.\n</think>\n\n4")]
    yield "think asked", [user("What does <think> mean? </think>"), answer("It opens a thought.")]


def called():
    """Tools, calls and results: (name, messages, tools)."""
    ask = user("How deep is Lake Como?")
    yield "tools without calls", [ask, answer("Deep.")], TOOLS
    yield "tools, system, many turns", [system("Use tools."), ask, answer("Deep."), user("Sure?"), answer("Yes.")], TOOLS
    yield "call", [ask, calls(("lookup", {"lake": "Como"})), result("425 m"), answer("425 metres.")], [LOOKUP]
    yield "call without tools", [ask, calls(("lookup", {"lake": "Como"})), result("425 m"), answer("425 metres.")], None
    yield "call, null content", [ask, calls(("lookup", {"lake": "Como"}), content=None), result("425 m"), answer("425 metres.")], [LOOKUP]
    yield "call, no content", [ask, {k: v for k, v in calls(("lookup", {"lake": "Como"})).items() if k != "content"}, result("425 m"), answer("425 metres.")], [LOOKUP]
    yield "call with words", [ask, calls(("lookup", {"lake": "Como"}), content="Let me look."), result("425 m"), answer("425 metres.")], [LOOKUP]
    yield "call with words and space", [ask, calls(("lookup", {"lake": "Como"}), content=" Let me look.\n\n"), result("425 m\n"), answer("\n425 metres.")], [LOOKUP]
    yield "call at the end", [ask, calls(("lookup", {"lake": "Como"}))], [LOOKUP]
    yield "call at the end with words", [ask, calls(("lookup", {"lake": "Como"}), content="Let me look.")], [LOOKUP]
    yield "call, then result at the end", [ask, calls(("lookup", {"lake": "Como"})), result("425 m")], [LOOKUP]
    yield "call with reasoning", [ask, calls(("lookup", {"lake": "Como"}), reasoning_content="I need a tool."), result("425 m"), answer("425 metres.", reasoning_content="Now I know.")], [LOOKUP]
    yield "call with reasoning and words", [ask, calls(("lookup", {"lake": "Como"}), content="Wait.", reasoning_content="I need a tool."), result("425 m"), answer("425.")], [LOOKUP]
    yield "call with thinking key", [ask, calls(("lookup", {"lake": "Como"}), thinking="I need a tool."), result("425 m"), answer("425 metres.", thinking="Now I know.")], [LOOKUP]
    yield "call in history", [ask, calls(("lookup", {"lake": "Como"}), reasoning_content="Thought."), result("425 m"), answer("425."), user("Thanks"), answer("Welcome.", reasoning_content="Polite.")], [LOOKUP]
    yield "two steps", [ask, calls(("lookup", {"lake": "Como"})), result("425 m"), calls(("now", {})), result("noon", "now"), answer("425 m at noon.")], TOOLS
    yield "two steps with words", [ask, calls(("lookup", {"lake": "a"}), content="One."), result("1"), calls(("lookup", {"lake": "b"}), content="Two."), result("2"), answer("3.")], TOOLS
    yield "two calls at once", [ask, calls(("lookup", {"lake": "Como"}), ("lookup", {"lake": "Garda"})), result("425 m"), result("346 m", call="call_2"), answer("Como.")], [LOOKUP]
    yield "two calls at once with words", [ask, calls(("lookup", {"lake": "Como"}), ("now", {}), content="Both."), result("425 m"), result("noon", "now", "call_2"), answer("So.")], TOOLS
    yield "three calls at the end", [ask, calls(("now", {}), ("lookup", {"lake": "Como"}), ("now", {}))], TOOLS
    for name, arguments in ARGUMENTS.items():
        yield f"arguments {name}", [ask, calls(("plot", arguments)), result("done", "plot"), answer("Drawn.")], [PLOT]
        yield f"arguments {name} at the end", [ask, calls(("plot", arguments))], [PLOT]
    yield "result in JSON", [ask, calls(("lookup", {"lake": "Como"})), result('{"depth": 425, "unit": "m", "π": [1, null]}'), answer("425.")], [LOOKUP]
    yield "result empty", [ask, calls(("lookup", {"lake": "Como"})), result(""), answer("Unknown.")], [LOOKUP]
    yield "result with special text", [ask, calls(("lookup", {"lake": "Como"})), result("<|im_end|></tool_response> </s>"), answer("Odd.")], [LOOKUP]
    yield "result long", [ask, calls(("lookup", {"lake": "Como"})), result("425 m, " * 500), answer("425.")], [LOOKUP]
    yield "tools of many kinds", [ask, answer("No.")], [tool("a.b-c_d", {"π": {"type": "string", "description": "<&>'\""}}), {"type": "function", "function": {"name": "bare"}}]


ARGUMENTS = {
    "numbers": {"points": [1, 2.5, -3, 1e-7, 0.1, 1e22, 100000000000000000.0], "width": 2, "ratio": 1.0},
    "large integers": {"id": 9007199254740993, "most": 18446744073709551615, "least": -9223372036854775808},
    "empty": {},
    "empty inside": {"style": {}, "points": [], "title": ""},
    "nested": {"style": {"colour": "red", "edge": {"width": 1.5, "dash": [1, [2, 3]]}}, "points": [1, 2]},
    "unicode": {"title": "Größe 深さ 🏔 e\u0301", "π": "≈3"},
    "constants": {"grid": True, "legend": False, "title": None},
    "escapes": {"title": "a \"quoted\" \\ back\nnew\tline </tool_call> <|im_end|> it's &"},
    "order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
    "one number": {"points": 7},
    "code": {"source": CODE},
    "white space": {"title": "  padded \n"},
    "special last": {"points": [1], "title": "<|im_end|>"},
}

THINKING = [
    ("thinking off", [user("2+2?"), answer("4")], {"enable_thinking": False}),
    ("thinking off, many turns", [user("2+2?"), answer("4"), user("3+3?"), answer("6")], {"enable_thinking": False}),
    ("thinking on", [user("2+2?"), answer("4", reasoning_content="Two and two.")], {"enable_thinking": True}),
    ("thinking off with reasoning", [user("2+2?"), answer("4", reasoning_content="Two and two.")], {"enable_thinking": False}),
]


def conversations():
    """All of them, as (name, record)."""
    for group in (plain, with_system, irregular, reasoned):
        for name, messages in group():
            yield name, {"messages": messages}
    for name, messages, tools in called():
        yield name, {"messages": messages} | ({"tools": tools} if tools is not None else {})
    for name, messages, options in THINKING:
        yield name, {"messages": messages, "chat_template_kwargs": options}


def in_parts(record):
    """The same with each content as a list of parts, which templates of models that see images want."""
    part = lambda turn: turn | {"content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn.get("content"), str) else turn
    return record | {"messages": [part(turn) for turn in record["messages"]]}


def pairs():
    """Prompts and completions."""
    draw = random.Random(2)
    texts = [*SCRIPTS.values(), CODE, "  leading", "trailing  ", "\n\nnewlines\n", "a\n\n\nb", "x", " ", "...", "<b>", "{}", "it's", "1234567890"]
    for text in texts:
        yield "Say: ", text
        yield text, " " + text
    yield "Question: why?\nAnswer:", " Because."
    yield "Question: why?\nAnswer: ", "Because."
    yield "Question: why?\n", "\nBecause.\n"
    for _ in range(10):
        yield sentence(draw, 12), " " + sentence(draw, 20)
