"""Asks TensorFlow Serving for the objects of a picture: python scripts/examples/request_rest.py PICTURE

Export into a numbered folder and start the server:
python scripts/export.py --checkpoint=RUN --output_dir=served/detector/1
tensorflow_model_server --rest_api_port=8501 --model_name=detector --model_base_path=$PWD/served/detector
"""

import json
import sys
import urllib.request

import numpy as np
from PIL import Image, ImageOps

URL = "http://localhost:8501/v1/models/detector:predict"


def body(pictures: list[np.ndarray]) -> bytes:
    """The request for pictures [H, W, 3] uint8 RGB of one size: TensorFlow Serving's row format."""
    return json.dumps({"instances": [{"images": picture.tolist()} for picture in pictures]}).encode()


def detections(answer: bytes, least: float = 0.3) -> list[list[tuple[int, float, list[float]]]]:
    """(class, score, box) of each picture, of the server's answer."""
    found = []
    for one in json.loads(answer)["predictions"]:
        rows = zip(one["classes"], one["scores"], one["boxes"], strict=True)
        found.append([row for row in list(rows)[: one["count"]] if row[1] >= least])
    return found


def main(picture: str, url: str = URL) -> None:
    """Prints what the server finds."""
    image = np.asarray(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))  # upright
    request = urllib.request.Request(url, body([image]), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        for number, score, box in detections(answer.read())[0]:
            print(number, f"{score:.3f}", *(f"{side:.1f}" for side in box))


if __name__ == "__main__":
    main(*sys.argv[1:])
