"""A Streamlit app with state, an upload and pictures, to be run in several replicas.

Run it, from the root of the repository:

    pip install streamlit 'sticky-asgi[cli,websocket]'
    streamlit run examples/streamlit_notes/app.py --server.port 9001 --server.headless true &
    streamlit run examples/streamlit_notes/app.py --server.port 9002 --server.headless true &
    export STICKY_SECRET=$(openssl rand -hex 32)
    sticky-asgi run examples/streamlit_notes/gateway.yaml

Then open http://127.0.0.1:8000. The session lives at one end of a WebSocket; an upload and the
pictures are requests of their own, which must reach the same replica. Without affinity the app
seems to work, until a file is uploaded or a picture is shown.
"""

from __future__ import annotations

import os
import random

import numpy as np
import streamlit as st
from PIL import Image

PICTURES = 4
ROWS = 3_000_000

if "clicks" not in st.session_state:
    st.session_state.clicks = 0
    st.session_state.colours = [random.randbytes(3) for _ in range(PICTURES)]

if st.button("Click"):
    st.session_state.clicks += 1
st.write(f"{st.session_state.clicks} clicks in process {os.getpid()}")

upload = st.file_uploader("A file")
if upload is not None:
    st.write(f"{upload.name} has {len(upload.getvalue())} bytes")

for colour in st.session_state.colours:
    st.image(Image.new("RGB", (80, 40), tuple(colour)))

if st.checkbox("A large table"):
    # It goes to the browser as one message of 24 MB.
    st.dataframe(np.random.default_rng().integers(2**62, size=ROWS))
