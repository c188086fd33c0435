"""LitServe with an ONNX file of `lookalike export --input tensor`, for `benchmarks/serve.py`.

Runs in an environment of its own (litserve, onnxruntime, pillow), without lookalike.
The preprocessing is that of the file's description: decode, resize the shorter side, crop, scale.
"""

import base64
import io
import json
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from PIL import Image


class Embeddings(litserve.LitAPI):
    """Images as base64 in JSON, vectors as lists."""

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[3])
        self.session = onnxruntime.InferenceSession(sys.argv[1], options)
        about = json.loads(self.session.get_modelmeta().custom_metadata_map["lookalike"])
        preprocess = about["model"]["preprocess"]
        self.size, self.crop = preprocess["image_size"], preprocess["crop_pct"]
        self.mean = np.array(preprocess["mean"], np.float32)[:, None, None]
        self.std = np.array(preprocess["std"], np.float32)[:, None, None]

    def decode_request(self, request: Request) -> np.ndarray:
        image = Image.open(io.BytesIO(base64.b64decode(request["input"]))).convert("RGB")
        scale = self.size / self.crop / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        return (pixels - self.mean) / self.std

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        tensor = x if x.ndim == 4 else x[None]
        return self.session.run(["embedding"], {"tensor": tensor})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"data": [{"embedding": output.ravel().tolist()}]}


if __name__ == "__main__":
    api = Embeddings(max_batch_size=int(sys.argv[4]), batch_timeout=float(sys.argv[5]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
