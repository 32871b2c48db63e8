"""A Gradio app with state and an upload, to be run in several replicas.

Run it, from the root of the repository:

    pip install gradio 'sticky-asgi[cli]'
    GRADIO_SERVER_PORT=9001 python examples/gradio_notes/app.py &
    GRADIO_SERVER_PORT=9002 python examples/gradio_notes/app.py &
    export STICKY_SECRET=$(openssl rand -hex 32)
    sticky-asgi run examples/gradio_notes/gateway.yaml

Then open http://127.0.0.1:8000. Each event is a request that joins a queue, and another one that
hears of the result as a stream: both must reach the same replica, and so must a file that is
uploaded before. Without affinity an event ends in an error more often than not.
"""

from __future__ import annotations

import os
from pathlib import Path

import gradio as gr


def add(text: str, notes: list[str]) -> tuple[list[str], str]:
    """Keep a note; the state stays in this process."""
    notes = [*notes, text]
    return notes, f"{len(notes)} notes in process {os.getpid()}"


def measure(file: str) -> str:
    path = Path(file)
    return f"{path.name} has {path.stat().st_size} bytes"


with gr.Blocks(title="Notes") as app:
    notes = gr.State([])
    text = gr.Textbox(label="A note")
    answer = gr.Markdown()
    gr.Button("Add").click(add, [text, notes], [notes, answer])
    file = gr.File(label="A file")
    size = gr.Markdown()
    file.upload(measure, file, size)

if __name__ == "__main__":
    app.launch()
