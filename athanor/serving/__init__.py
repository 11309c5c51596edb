"""Serving: OpenAI's HTTP interface and a chat page over the inference engine."""
