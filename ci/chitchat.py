"""Reads chitchat-dataset's JSON from standard input and writes one conversation a line, as chat templates expect it:
{"messages": [{"role": "user" | "assistant", "content": ...}, ...]}. The second speaker is the assistant."""
import json
import sys

for dialogue in json.load(sys.stdin).values():
    messages = []
    for turn in dialogue["messages"]:
        text = " ".join(message["text"].strip() for message in turn).strip()
        if not text:
            continue
        role = "user" if len(messages) % 2 == 0 else "assistant"
        messages.append({"role": role, "content": text})
    if len(messages) % 2:
        messages.pop()
    if messages:
        print(json.dumps({"messages": messages}, ensure_ascii=False))
