"""A conversation with any server that speaks OpenAI's chat completions: `tgi chat`."""
