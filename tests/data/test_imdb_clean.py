import numpy as np

from softbio_jax.data import decode
from tests.data.trees import by_id, prepared_split, write_image, write_table

HEADER = ("filename", "age", "gender", "x_min", "y_min", "x_max", "y_max", "pitch", "yaw", "roll")


def test_labels_and_crops(tmp_path):
    rows = [
        ("00/nm1_rm1.jpg", 31, "M", 10, 5, 30, 25, 0, 0, 0),
        ("00/nm2_rm1.jpg", 9, "F", -5, 0, 20, 30, 0, 0, 0),
    ]
    for number, row in enumerate(rows):
        image = tmp_path / "data" / "imdb-clean-1024" / row[0]
        write_image(image, number, size=(40, 50), quality=98)
    write_table(tmp_path / "csvs" / "imdb_valid_new_1024.csv", HEADER, rows)
    dataset, _ = prepared_split("imdb_clean", tmp_path, tmp_path / "out", "val")
    assert by_id(dataset, "age", "gender") == {"00/nm1_rm1.jpg": (4, 0), "00/nm2_rm1.jpg": (1, 1)}
    whole = decode.decode_full((tmp_path / "data" / "imdb-clean-1024" / "00" / "nm1_rm1.jpg").read_bytes())
    cut = decode.decode_full(dataset[0]).astype(int)
    assert np.abs(cut - whole[5:25, 10:30]).mean() < 3
    assert decode.decode_full(dataset[1]).shape == (30, 25, 3)
