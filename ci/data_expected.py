"""What transformers makes of a conversation, and which of its tokens are the assistant's: the reference of ci/data_parity.py.

Ids are those of `apply_chat_template`. What is trained is computed here from a definition, in a way that needs to know the family of the template: the assistant's
words, as the template writes them after the generation prompt, and the token by which that model stops. Every string of the conversation is replaced by a plain
word of its own, so that the text which the template writes holds no header and no stop but the template's own: they are found by a search. The words are then put
back, which must give the real text, or the conversation has no reference (`unsure`).
"""

import json
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field

STRUCTURE = re.compile(r"(</?think>|</?tool_response>)")  # templates look for these in contents
WORD = re.compile(r"Zq\d{4}x")


@dataclass(frozen=True)
class Family:
    """How a family of models writes turns."""

    headers: tuple  # after one of these the assistant speaks
    stops: tuple  # one of these ends its turn
    others: tuple = ()  # after one of these another speaks, though none of the stops was written
    tokens: tuple = ()  # special tokens that a tokenizer which lends itself to the template must be given
    bos: str | None = None
    eos: str | None = None
    parts: bool = False  # contents are lists of parts


CHATML = Family(("<|im_start|>assistant\n",), ("<|im_end|>",))
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
FAMILIES = {
    "chatml": CHATML,
    "nemotron": Family(CHATML.headers, CHATML.stops, (), ("<|im_start|>", "<|im_end|>"), "<s>", "<|im_end|>"),
    "lfm2": Family(
        CHATML.headers, CHATML.stops, (),
        ("<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>"),
        "<|startoftext|>", "<|im_end|>",
    ),
    "llama3": Family(("<|start_header_id|>assistant<|end_header_id|>\n\n",), ("<|eot_id|>", "<|eom_id|>")),
    "llama2": Family(("[/INST]",), ("</s>",)),
    "llava": Family(("[/INST]",), ("</s>",), (), ("<image>",), "<s>", "</s>", parts=True),
    "gemma": Family(("<start_of_turn>model\n",), ("<end_of_turn>",)),
    "gemma4": Family(
        ("<|turn>model\n", "<tool_response|>"), ("<turn|>", "<|tool_response>"), ("<|turn>user\n",),
        ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|channel>", "<channel|>", '<|"|>', "<|tool>", "<tool|>", "<|think|>"),
        "<bos>", "<turn|>",
    ),
    "deepseek": Family(("<｜Assistant｜>", "<｜tool▁outputs▁end｜>"), ("<｜end▁of▁sentence｜>",), ("<｜User｜>",)),
    "gptoss": Family(("<|start|>assistant",), ("<|end|>", "<|call|>", "<|return|>")),
    "muse": Family(("<|start|>assistant",), ("<|eot|>",), ("<|start|>user", "<|start|>tool"), ("<|start|>", "<|message|>", "<|eot|>", "<|eom|>", "<|patch|>"), "<|begin|>", "<|eot|>"),
    "cohere": Family(
        ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",), ("<|END_OF_TURN_TOKEN|>",), (),
        ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>",
    ),
    "phi3": Family(("<|assistant|>\n",), ("<|end|>",), (), ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>"),
    # The token of the next role is the stop.
    "glm4": Family(
        ("<|assistant|>",), ("<|user|>", "<|observation|>", "<|system|>", "<|assistant|>"), (),
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", *THINK), None, "<|endoftext|>",
    ),
    "idefics3": Family(("Assistant:",), ("<end_of_utterance>",), (), ("<image>",), "<|begin_of_text|>", "<end_of_utterance>", parts=True),
    "smolvlm": Family(("Assistant:",), ("<end_of_utterance>",), (), ("<image>",), "<|im_start|>", "<end_of_utterance>", parts=True),
    "olmo": Family(("<|assistant|>\n",), ("<|endoftext|>",)),
}


class Unsure(Exception):
    """There is no reference for a conversation."""


@dataclass
class Words:
    """The strings of a conversation behind plain words: word to (text, message)."""

    texts: dict = field(default_factory=dict)

    def word(self, text, message):
        name = f"Zq{len(self.texts):04}x"
        self.texts[name] = (text, message)
        return name

    def hide(self, text, message):
        """White space at the ends and what templates look for stay, as templates act on them."""
        out = []
        for piece in STRUCTURE.split(text):
            core = piece.strip()
            if not core or STRUCTURE.fullmatch(piece):
                out.append(piece)
            else:
                before, after = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
                out.append(before + self.word(core, message) + after)
        return "".join(out)

    def hide_all(self, value, message):
        if isinstance(value, str):
            return self.hide(value, message)
        if isinstance(value, list):
            return [self.hide_all(part, message) for part in value]
        if isinstance(value, dict):
            return {key: self.hide_all(part, message) for key, part in value.items()}
        return value

    def hide_turn(self, turn, message):
        turn = dict(turn)
        for key in ("content", "reasoning_content", "thinking"):
            content = turn.get(key)
            if isinstance(content, list):
                turn[key] = [part | {"text": self.hide(part["text"], message)} if part.get("type") == "text" else part for part in content]
            elif isinstance(content, str):
                turn[key] = self.hide(content, message)
        if turn.get("tool_calls"):
            turn["tool_calls"] = [
                call | {"function": {"name": self.hide(call["function"]["name"], message), "arguments": self.hide_all(call["function"]["arguments"], message)}}
                for call in turn["tool_calls"]
            ]
        return turn


def written(text):
    """How a template may write a string: as it is, in JSON, in JSON of ASCII, as Python would."""
    forms = [text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1], repr(text)[1:-1], text.replace("'", "\\'"), text.replace('"', '\\"')]
    return list(dict.fromkeys(forms))


def put_back(pieces, whole, words):
    """Where each piece of the hidden text (literals and words in turn) ends in the whole."""
    ends = []

    def follow(index, at):
        while index < len(pieces):
            piece = pieces[index]
            if index % 2 == 0:
                if not whole.startswith(piece, at):
                    return False
                at += len(piece)
                ends.append(at)
                index += 1
                continue
            for form in written(words.texts[piece][0]):
                if whole.startswith(form, at):
                    kept = len(ends)
                    ends.append(at + len(form))
                    if follow(index + 1, at + len(form)):
                        return True
                    del ends[kept:]
            return False
        return at == len(whole)

    if not follow(0, 0):
        raise Unsure("the words put back do not give the text")
    return ends


def segments(text, family):
    """(start, end) of what the assistant writes in a hidden text, its stop included, by a search for headers and stops."""
    tokens = sorted({*family.headers, *family.stops, *family.others}, key=len, reverse=True)
    found, start = [], None
    for match in re.finditer("|".join(map(re.escape, tokens)), text):
        token = match.group()
        if start is not None and token in family.stops:
            found.append((start, match.end()))
            start = None
        elif token in family.others:
            start = None
        if start is None and token in family.headers:
            start = match.end()
    if start is not None and text[start:].strip():
        found.append((start, len(text)))
    return found


def joined(text, found, words, family):
    """Segments with the message of each; those of one message with no other's words between are one, header and all."""
    out = []
    for start, end in found:
        inside = [words.texts[word][1] for word in WORD.findall(text[start:end])]
        message = inside[0] if inside else None
        between = out and text[out[-1][1] : start]
        if out and message is not None and out[-1][2] == message and between in family.headers:
            out[-1][1] = end
        else:
            out.append([start, end, message])
    return out


def common(a, b):
    """How long the begin is that both have, without a part of a tag: `<think>` and `<tool_call>` have none."""
    count = 0
    for x, y in zip(a, b):
        if x != y:
            break
        count += 1
    part = re.search(r"<[^<>\s]*$", a[:count])
    return part.start() if part else count


def spans(record, render, family, whole):
    """Character spans of the whole that are trained; and the same where a thought that the content begins with is not taken for the prompt's."""
    words = Words()
    hidden = [words.hide_turn(turn, index) for index, turn in enumerate(record["messages"])]
    text = render(hidden, False)
    roles = [turn["role"] for turn in hidden]
    found = joined(text, segments(text, family), words, family)
    pieces = re.split(r"(Zq\d{4}x)", text)
    ends = put_back(pieces, whole, words)
    borders, at = [], 0
    for piece, end in zip(pieces, ends):
        borders.append((at, at + len(piece), end))
        at += len(piece)

    def moved(position):
        """A position in a literal of the hidden text, in the whole."""
        for index in range(0, len(borders), 2):
            start, stop, end = borders[index]
            if start <= position <= stop:
                return end - (stop - position)
        raise Unsure("a border lies inside a word")

    exact, bounded, last = [], [], -1
    for start, end, message in found:
        if message is None:  # an empty turn: the next of the assistant's
            message = next((i for i in range(last + 1, len(roles)) if roles[i] == "assistant"), None)
        if message is None or roles[message] not in ("assistant", "model"):
            raise Unsure(f"what follows a header of the assistant is of turn {message}")
        extra = prompt_after_header(hidden, message, render, family) if message != last else ""
        last = message
        begin = start + common(text[start:end], extra)
        content = hidden[message].get("content")
        begins_with_structure = isinstance(content, str) and STRUCTURE.match(content.lstrip())
        exact.append((moved(begin), moved(end)))
        bounded.append((moved(start if begins_with_structure else begin), moved(end)))
    spoken = {message for _, _, message in found if message is not None}
    for word, (_, message) in words.texts.items():
        if roles[message] == "assistant" and word in text and message not in spoken:
            raise Unsure(f"turn {message} stands under no header of the assistant")
    return exact, bounded


def prompt_after_header(hidden, message, render, family):
    """What the generation prompt for a turn writes after the header."""
    try:
        prompt = render(hidden[:message], True)
    except Exception:  # no conversation for the template, as one without a user
        return ""
    after = [prompt.rfind(header) + len(header) for header in family.headers if header in prompt]
    extra = prompt[max(after) :] if after else ""
    return "" if WORD.search(extra) else extra


def marks(offsets, spans_):
    """Tokens that begin inside a span."""
    trained = [False] * len(offsets)
    for start, end in spans_:
        for index, (a, b) in enumerate(offsets):
            if a < b and start <= a < end:
                trained[index] = True
    return trained


def takes_in_header(text, spans_, family):
    """Whether generation blocks have a part of the header in them."""
    cut = tuple(header.rstrip("\n") for header in family.headers if header.endswith("\n"))
    return any(text[start:end].startswith(family.headers) or text[:start].endswith(cut) for start, end in spans_)


class Reference:
    """A tokenizer of transformers with a template."""

    def __init__(self, folder, template=None, family="chatml", tokenizer=None):
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        self.tokenizer, self.raw = tokenizer or (AutoTokenizer.from_pretrained(folder), None)
        if self.raw is None:
            # Without what shortens offsets by white space; ids without special tokens do not depend on it.
            with silent():
                parts = json.loads(self.tokenizer.backend_tokenizer.to_str())
            parts["post_processor"] = None
            self.raw = Tokenizer.from_str(json.dumps(parts, ensure_ascii=False))
        self.template = template or self.tokenizer.chat_template
        self.family = FAMILIES[family]
        self.special = {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.sentencepiece = self.raw.token_to_id("▁") is not None
        self.trusted = None  # whether blocks of the template leave the header out; known once asked

    def shared(self):
        return self.tokenizer, self.raw

    def render(self, record, messages, open_, tokenize=False):
        return self.tokenizer.apply_chat_template(
            messages, tools=record.get("tools"), chat_template=self.template, add_generation_prompt=open_, tokenize=tokenize, **record.get("chat_template_kwargs", {})
        )

    def generated(self, record):
        """The text, and spans of its generation blocks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        options = {**self.tokenizer.special_tokens_map, **record.get("chat_template_kwargs", {})}
        texts, found = render_jinja_template(
            conversations=[record["messages"]], tools=record.get("tools"), chat_template=self.template, return_assistant_tokens_mask=True,
            add_generation_prompt=False, **options,
        )
        return texts[0], found[0]

    def blocks_are_words(self, record):
        """Whether the blocks hold what the assistant says without the header, told by the first conversation."""
        if self.trusted is None:
            self.trusted = not takes_in_header(*self.generated(record), self.family)
        return self.trusted

    def expect(self, record):
        """Ids, and the ways to mark them that may be right: by the definition first."""
        try:
            whole = self.render(record, record["messages"], False)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:200]}
        ids = self.render(record, record["messages"], False, tokenize=True)
        encoded = self.raw.encode(whole, add_special_tokens=False)
        found = {"ids": ids, "marks": {}}
        if encoded.ids != ids:
            return found | {"unsure": "offsets are of other tokens"}
        try:
            render = lambda messages, open_: self.render(record, messages, open_)
            exact, bounded = spans(record, render, self.family, whole)
            found["marks"]["definition"] = exact
            if bounded != exact:
                found["marks"]["whole content"] = bounded
        except Unsure as error:
            found["unsure"] = str(error)
        except Exception as error:
            found["unsure"] = f"the hidden text is refused: {error}"[:200]
        if re.search(r"{%-?\s*generation\s*-?%}", self.template):
            try:
                if self.blocks_are_words(record):
                    found["marks"]["block"] = self.generated(record)[1]
            except Exception as error:
                found["unsure"] = f"its blocks: {error}"[:200]
        found["marks"] = {name: runs(marks(encoded.offsets, spans_)) for name, spans_ in found["marks"].items()}
        return found


@contextmanager
def silent():
    """Nothing on standard output, where the library warns of gaps in a vocabulary."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def runs(flags):
    """Marks as lengths of runs in turn, of not trained tokens first."""
    out, value, count = [], False, 0
    for flag in flags:
        if flag != value:
            out.append(count)
            value, count = flag, 0
        count += 1
    return out + [count]
