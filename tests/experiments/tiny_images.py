"""Images that the tests make, as ImageNet has them in TFDS."""

import io

import numpy as np
import tiny_tfds
from PIL import Image

FEATURES = {
    "image": tiny_tfds.image((None, None, 3), "jpeg"),
    "label": tiny_tfds.class_label(1000),
    "file_name": tiny_tfds.text(),
}


def file(image, kind="JPEG", **options):
    """The bytes of an image's file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(256, size=(height // 4, width // 4, 3))
    small = Image.fromarray(pixels.astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def examples(images, prefix):
    return [
        {"image": image, "label": 7 * i, "file_name": f"{prefix}_{i}.JPEG"}
        for i, image in enumerate(images)
    ]
