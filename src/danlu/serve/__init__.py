"""A model over HTTP, by OpenAI's protocol; needs the extra `[serve]`."""
