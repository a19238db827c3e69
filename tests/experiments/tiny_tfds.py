"""Makes prepared TFDS datasets, without TensorFlow and without a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

Example = Mapping[str, Any]  # of a feature: bytes or str, int, float, or a list of these


def write(
    folder: Path,
    name: str,
    version: str,
    features: Mapping[str, Any],
    splits: Mapping[str, Sequence[Example]],
) -> Path:
    """Writes what `tfds.data_source(name, data_dir=folder)` reads.

    Args:
      folder: for all datasets.
      name: "mnist", or with the configuration, "glue/sst2".
      version: "3.0.1", one that TFDS's builder of that name knows.
      features: name of a feature -> what features.json says of it, see below.
      splits: name of a split -> its examples; an image is a file's bytes.

    Returns:
      The folder of this version.
    """
    dataset, _, config = name.partition("/")
    where = folder / name / version
    where.mkdir(parents=True)
    for split, examples in splits.items():
        path = where / f"{dataset}-{split}.array_record-00000-of-00001"
        _write_records(path, [_serialized(example) for example in examples])
    info = {
        "name": dataset,
        "configName": config,
        "version": version,
        "fileFormat": "array_record",
        "splits": [_split(name, examples) for name, examples in splits.items()],
    }
    (where / "dataset_info.json").write_text(json.dumps(info))
    (where / "features.json").write_text(json.dumps(_features_dict(features)))
    return where


def class_label(classes: int) -> dict[str, Any]:
    return _feature(
        "class_label_feature.ClassLabel", classLabel={"numClasses": str(classes)}
    )


def text() -> dict[str, Any]:
    return _feature("text_feature.Text", text={})


def scalar(dtype: str) -> dict[str, Any]:
    tensor = {"shape": {}, "dtype": dtype, "encoding": "none"}
    return _feature("tensor_feature.Tensor", tensor=tensor)


def image(shape: Sequence[int | None], encoding: str | None = None) -> dict[str, Any]:
    """Sides that differ from image to image are None; encoding: "jpeg" or "png"."""
    dimensions = {"dimensions": [str(-1 if side is None else side) for side in shape]}
    content = {"shape": dimensions, "dtype": "uint8"}
    if encoding:
        content["encodingFormat"] = encoding
    return _feature("image_feature.Image", image=content)


def _feature(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{kind}", **content}


def _features_dict(features: Mapping[str, Any]) -> dict[str, Any]:
    content = {"features": dict(features)}
    return _feature("features_dict.FeaturesDict", featuresDict=content)


def _split(name: str, examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(examples))],
        "numBytes": str(sum(len(_serialized(example)) for example in examples)),
    }


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    # As TFDS writes them: one record can then be read without its neighbours.
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def _serialized(example: Example) -> bytes:
    # Its module is made when it is imported, where type checkers don't look.
    proto = cast(Any, tf_example_pb2).Example()
    for name, value in example.items():
        _fill(proto.features.feature[name], value)
    return proto.SerializeToString()


def _fill(feature: Any, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], str | bytes):
        content = [one.encode() if isinstance(one, str) else one for one in values]
        feature.bytes_list.value.extend(content)
    elif isinstance(values[0], float):
        feature.float_list.value.extend(values)
    else:
        feature.int64_list.value.extend(values)
