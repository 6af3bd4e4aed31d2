"""Does a tuned directory load in transformers, with the same numbers?

    python tools/reference/check_tuned_directory.py build/attune TUNED_DIR [TEXT]

Scores the text with `attune score` and with transformers (fp32, eager attention) and prints the largest difference of a
token's negative log-likelihood; fails above 1e-4.
"""
import json
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM

program, directory = sys.argv[1], sys.argv[2]
text = sys.argv[3] if len(sys.argv) > 3 else "Once upon a time there was a doctor who lived near the sea."
with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    file.write(text + "\n")
    file.flush()
    row = json.loads(subprocess.run([program, "score", "--model", directory, "--file", file.name], check=True,
                                    capture_output=True, text=True).stdout)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
ids = torch.tensor([row["ids"]])
logp = torch.log_softmax(model(ids).logits[0].double(), -1)
nll = [-logp[i, t].item() for i, t in enumerate(row["ids"][1:])]
worst = max(abs(a - b) for a, b in zip(nll, row["nll"]))
print(f"{len(nll)} tokens, largest difference {worst:.2e}")
sys.exit(0 if worst < 1e-4 else 1)
