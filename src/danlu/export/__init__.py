"""A checkpoint for other programs: GGUF with ollama's Modelfile, a Hugging Face folder with a card, the article's .pt.

`gguf` writes the file that llama.cpp reads, `vocabulary` says how it reads the tokenizer, `modelfile` what ollama asks;
`folder` and `card` make what is published; `recorded` finds what a run knows of itself.
"""
