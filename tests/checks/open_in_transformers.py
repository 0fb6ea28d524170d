"""Open a checkpoint with transformers alone (any version) and compare with what danlu computed.

usage: open_in_transformers.py CHECKPOINT EXPECTED.safetensors
"""

import json
import sys

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, path = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval().float()  # 5.x computes as the file is stored
with safe_open(path, "pt") as file:
    expected = json.loads(file.metadata()["expected"])
    for number, row in enumerate(expected):
        assert tokenizer(row["text"])["input_ids"] == row["ids"], row["text"]
        ids = torch.tensor([row["ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        torch.testing.assert_close(logits, file.get_tensor(f"logits{number}"), rtol=1e-4, atol=1e-4)
        begun = torch.tensor([[row["eos"], *row["ids"]]])
        out = model.generate(begun, max_new_tokens=12, do_sample=False, pad_token_id=row["eos"])
        new = [i for i in out[0, begun.shape[1] :].tolist() if i != row["eos"]]
        text = tokenizer.decode(new, clean_up_tokenization_spaces=False)
        assert text == row["greedy"], (text, row["greedy"])
assert model.generation_config.eos_token_id == expected[0]["eos"]
print(f"transformers {transformers.__version__}: {len(expected)} texts equal")
