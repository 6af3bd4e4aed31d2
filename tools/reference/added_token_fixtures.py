#!/usr/bin/env python3
"""Write tests/fixtures/tokenizers/added.json: what Hugging Face makes of tokens that are added to the fixture tokenizer.

    python tools/reference/added_token_fixtures.py [TOKENIZER_DIR]

With a directory (as `attune train add_tokens=…` leaves it) it checks instead that AutoTokenizer gives the same ids there, by the
tokenizer's own files alone.
"""
import json
import pathlib
import sys

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

FIXTURES = pathlib.Path("tests/fixtures/tokenizers")
PLAIN = ["GlucoTab", "心肌梗死", "aa bb", "<field>"]
SPECIAL = ["<|tool|>", "<|result|>"]
TEXTS = ["Take GlucoTab twice.", "GlucoTabGlucoTab", "急性心肌梗死的患者", "x aa bb y", "<field>age</field>", "<|tool|>run<|result|> ok",
         " <|tool|> ", "aa  bb", "glucotab", "Gluco Tab", ""]


def encoded(tokenizer):
    return [tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS]


if len(sys.argv) > 1:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    for t, ids in zip(TEXTS, encoded(tokenizer)):
        print(json.dumps([t, ids], ensure_ascii=False))
    print({t: tokenizer.convert_tokens_to_ids(t) for t in PLAIN + SPECIAL}, sorted(tokenizer.all_special_tokens), len(tokenizer))
else:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(FIXTURES / "base.json")))
    before = len(tokenizer)
    assert tokenizer.add_tokens(PLAIN) == len(PLAIN)
    assert tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL}) == len(SPECIAL)
    out = {"before": before, "add_tokens": PLAIN, "add_special_tokens": SPECIAL,
           "ids": tokenizer.convert_tokens_to_ids(PLAIN + SPECIAL), "texts": TEXTS, "encoded": encoded(tokenizer)}
    (FIXTURES / "added.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")
