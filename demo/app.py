"""The Space: python app.py, after pip install -r requirements.txt. The owner chooses the models, visitors do not."""

import os

from hf_speechrec.demo import launch

launch(os.environ.get("RECOGNIZER", "an4"), os.environ.get("CLASSIFIER", "speech-commands"))
