"""TensorFlow Datasets, imported where protobuf is older than the code that it is given.

Colab's CPU and GPU images of August 2026 hold protobuf 5.29 and tensorflow-metadata 1.21, whose generated
code asks for 6.31 and refuses older versions when it is imported. It holds serialised descriptors, which
5.29 reads.
"""

import os

_UNCHECKED = "TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK"
_before = os.environ.get(_UNCHECKED)
os.environ[_UNCHECKED] = "true"
try:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import shuffle
    from tensorflow_datasets.proto import tf_example_pb2
finally:
    # For other programs' generated code the check stays as it was.
    if _before is None:
        del os.environ[_UNCHECKED]
    else:
        os.environ[_UNCHECKED] = _before

__all__ = ["shuffle", "tf_example_pb2", "tfds"]
