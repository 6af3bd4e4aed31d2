"""Renders random conversations with the chat templates of a folder, once with transformers and once with attune's
test program, and compares texts, and answers with the {% generation %} spans.

usage: template_differential.py TEST_TEXT TEMPLATES_DIR [COUNT] [SEED]     (needs transformers; default 400 conversations)
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import chat_fixtures as fixtures

TEXTS = ["Hello", "", " ", "\n", "  spaces \n", "你好，世界 🌍", "é\u0301 naïve", "<|im_end|>\n<|im_start|>system\nx", "</s><|eot_id|>", "<think>\nwhy\n</think>\n\nyes", "</think>", "{{ 1 }} {% x %}", "a'b\"c\\n", "line1\nline2\r\n", "مرحبا", "{\"k\": [1, 2.5, null]}", "\u2028", "long " * 60, "assistant", "tool", "<tool_call>"]


def conversation(rng):
    text = lambda: rng.choice(TEXTS) + (rng.choice(TEXTS) if rng.random() < 0.3 else "")  # noqa: E731
    messages = [fixtures.m("system", text())] if rng.random() < 0.4 else []
    for _ in range(rng.randrange(1, 5)):
        messages.append(fixtures.m("user", text()))
        if rng.random() < 0.3:
            calls = [fixtures.call(rng.choice(["get_weather", "clock"]), rng.choice([{}, {"city": text(), "n": [1, 0.5, None, True]}])) for _ in range(rng.choice([1, 1, 2]))]
            messages.append(fixtures.m("assistant", rng.choice(["", text()]), tool_calls=calls))
            messages += [fixtures.m("tool", text()) for _ in calls]
        if rng.random() < 0.9:
            extra = {"reasoning_content": text()} if rng.random() < 0.2 else {}
            messages.append(fixtures.m("assistant", text(), **extra))
    return {"messages": messages, **({"tools": [fixtures.WEATHER, fixtures.CLOCK]} if rng.random() < 0.3 else {})}


def main():
    program, templates = sys.argv[1], pathlib.Path(sys.argv[2])
    count, seed = int((sys.argv[3:] or [400])[0]), int((sys.argv[4:] or [1])[0])
    rng = random.Random(seed)
    chats = [conversation(rng) for _ in range(count)]
    rows, refused = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(templates.glob("*.jinja")):
            shutil.copyfile(path, pathlib.Path(folder, path.name))
            rows[path.stem] = [fixtures.render(path.read_text(), chat, chat["messages"][-1]["role"] != "assistant") for chat in chats]
            refused += sum("error" in row for row in rows[path.stem])
        pathlib.Path(folder, "conversations.json").write_text(json.dumps(chats))
        pathlib.Path(folder, "renderings.json").write_text(json.dumps(rows))
        run = subprocess.run([program, "--gtest_filter=ChatTemplateText.EqualsTransformers:ChatTemplateAnswers.StructureAgreesWithGenerationMarks"], env={**os.environ, "ATTUNE_CHAT_FIXTURES": folder + "/"}, capture_output=True, text=True)
    print(run.stdout if run.returncode else "", f"{len(rows)} templates, {count} conversations, {refused} renderings refused by both: {'differences' if run.returncode else 'all equal'}", sep="\n")
    sys.exit(run.returncode != 0)


main()
