"""Write what danlu computes for a checkpoint: logits, token ids and a greedy continuation, for another program to meet.

usage: expect_logits.py CHECKPOINT OUT.safetensors
"""

import json
import sys

import torch
from safetensors.torch import save_file

import danlu
from danlu.infer.sampling import Sampling

TEXTS = ["珠穆朗玛峰是世界最高的山峰。", "Hello, world! 123\n\n", "１２３ 今天 don't 👍"]

model, tokenizer = danlu.load_model(sys.argv[1]), danlu.load_tokenizer(sys.argv[1])
tensors, expected = {}, []
for number, text in enumerate(TEXTS):
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        tensors[f"logits{number}"] = model(ids).logits_BTV[0].contiguous()
    greedy = danlu.generate(model, tokenizer, text, max_new_tokens=12, sampling=Sampling(temperature=0))
    expected.append({"text": text, "ids": ids[0].tolist(), "eos": tokenizer.eos_id, "greedy": greedy.texts[0]})
save_file(tensors, sys.argv[2], metadata={"expected": json.dumps(expected)})
