"""Counts and texts of ci/data_parity.py: what is equal, and what differs in words."""

import re
import unicodedata


class Row:
    """Counts of one template."""

    def __init__(self, name):
        self.name, self.fine, self.exceptions, self.way = name, True, {}, "definition"
        self.rendered = self.ids = self.marks = self.unsure = self.both = self.only = 0

    def count(self, expect, found, way):
        """Counts a conversation; what differs, if something does, and details."""
        refused = not isinstance(found, tuple)
        if "error" in expect:
            self.both += refused
            return (None, "") if refused else ("rendered by ours only", expect["error"])
        if refused and any(len(lengths) == 1 for lengths in expect["marks"].values()):
            self.both += 1  # nothing of it would be trained
            return None, ""
        self.rendered += 1
        if refused:
            self.only += 1
            return "refused by ours only", found
        ids, marks = found
        if ids != expect["ids"]:
            return "ids", ""
        self.ids += 1
        wanted = marked(expect, way)
        if wanted is None:
            self.unsure += 1
            return None, ""
        self.marks += marks == wanted
        return (None, "") if marks == wanted else ("marks", "")

    def line(self):
        exceptions = ", ".join(f"{count} {reason}" for reason, count in self.exceptions.items())
        way = "" if self.way == "definition" else f" ({self.way})"
        return f"| {self.name} | {self.rendered} | {self.ids} | {self.marks}{way} | {self.unsure} | {self.both} | {self.only} | {exceptions} |"


def total(rows):
    sum_ = Row("all")
    for row in rows:
        for key in ("rendered", "ids", "marks", "unsure", "both", "only"):
            setattr(sum_, key, getattr(sum_, key) + getattr(row, key))
        for reason, count in row.exceptions.items():
            sum_.exceptions[reason] = sum_.exceptions.get(reason, 0) + count
    return sum_


def marked(expect, way):
    """The marks of a conversation by one way, or by the definition where that way says nothing; none if there is no reference."""
    lengths = expect.get("marks", {}).get(way) or expect.get("marks", {}).get("definition")
    if lengths is None:
        return None
    return [bool(index % 2) for index, length in enumerate(lengths) for _ in range(length)]


def more_than(mine, theirs):
    """Whether theirs has the same, more behind the runs of mine, or more on both sides of them; none if something else."""
    if mine == theirs:
        return "equal"
    opened = False
    for run in re.finditer("[A-C]+", "".join("ABC-"[0 if a and b else 1 if b else 2 if a else 3] for a, b in zip(mine, theirs))):
        if not re.fullmatch("B*A+B*", run.group()):
            return None
        opened |= run.group().startswith("B")
    return "opened" if opened else "tail"


def placed(ours, expected):
    """Samples whose place is not known, as some were left out: by their ids."""
    if "rest" not in ours:
        return ours
    kept, samples_ = ours.pop("rest")
    for sample in samples_:
        at = next((index for index in kept if expected[index].get("ids") == sample[0]), None)
        if at is None:
            at = kept[0]
        ours[at] = sample
        kept = [index for index in kept if index > at]
    return ours


def shown(raw, ids_, trained):
    """Tokens as text, with what is trained in brackets."""
    out, inside, run = [], False, []

    def flush():
        text = raw.decode(run, skip_special_tokens=False)
        out.append(f"⟦{text}⟧" if inside and run else text)
        run.clear()

    for id_, flag in zip(ids_, trained or [False] * len(ids_)):
        if flag != inside:
            flush()
            inside = flag
        run.append(id_)
    flush()
    text = "".join(out)
    return text if len(text) < 6000 else text[:3000] + " … " + text[-3000:]


def text_of(reference, ids_):
    """Tokens as the text that they stand for, without the decoder's liberties."""
    if not reference.sentencepiece:
        return reference.raw.decode(ids_, skip_special_tokens=False)
    out = b""
    for id_ in ids_:
        piece = reference.raw.id_to_token(id_)
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        out += bytes([int(byte.group(1), 16)]) if byte else (piece if id_ in reference.special else piece.replace("▁", " ")).encode()
    return out.decode(errors="replace")


def around(reference, prompt, completion):
    """What the tokens of a pair must say, whole and trained: bos + prompt + completion + eos, in the form that the tokenizer gives a text."""
    tokenizer = reference.tokenizer
    begin = tokenizer("x")["input_ids"][0]
    bos = tokenizer.bos_token if begin == tokenizer.bos_token_id and len(tokenizer("x")["input_ids"]) > 1 else ""
    form = tokenizer.backend_tokenizer.normalizer
    if form is not None and "NFC" in str(form):
        prompt, completion = unicodedata.normalize("NFC", prompt), unicodedata.normalize("NFC", completion)
    # SentencePiece's tokenizers put a space before a text.
    space = " " if text_of(reference, tokenizer("x", add_special_tokens=False)["input_ids"]) == " x" else ""
    return bos + space + prompt + completion + tokenizer.eos_token, completion + tokenizer.eos_token
