"""Parts of the page: its style, its script, and the ear behind its microphone."""
