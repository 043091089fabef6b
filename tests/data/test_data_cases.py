"""The data of the shared cases: folders that were refused, or read wrong, and are read now."""

import numpy as np
import pytest
from own_fixtures import open_split
from places import CASES

from fgfi_tf.data import transforms

DOG = [80, 60, 159, 119]
# name: (learnt classes of a plain open, or None for VOC's twenty; boxes of a and b)
EXPECTED = {
    "voc_flat_root": (None, [DOG], [DOG]),
    "voc_JPG_suffix": (None, [DOG], [DOG]),
    "voc_png_images": (None, [DOG], [DOG]),
    "voc_no_size": (None, [DOG], [DOG]),
    "voc_box_at_zero": (None, [DOG], [[0, 60, 159, 119]]),
    "voc_custom_class": (("helmet",), [DOG], [DOG]),
    "voc_exif_180": (None, [DOG], [[230, 180, 309, 229]]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case(name, tmp_path):
    folder = CASES / name
    data = open_split("voc", folder, "train", prepared_dir=tmp_path)
    learnt, *boxes = EXPECTED[name]
    assert data.image_ids == ("a", "b")
    assert data.learnt_names == learnt if learnt else len(data.learnt_names) == 20
    samples = list(data.records().as_numpy_iterator())
    assert [sample["boxes"].tolist() for sample in samples] == boxes
    assert all(
        sample["image_size"].tolist() == [240, 320] and not sample["ignore"].any() for sample in samples
    )
    # the same folder as anybody's own
    own = open_split("folder", folder, "all", prepared_dir=tmp_path / "own")
    assert own.learnt_names == (learnt or ("dog",))


def test_a_picture_that_exif_turns_is_upright(tmp_path):
    """Both pictures show the same red block in their box, b only where it is turned by 180 degrees."""
    data = open_split("voc", CASES / "voc_exif_180", "train", prepared_dir=tmp_path)
    means = []
    for index, turn in ((0, 1), (1, 1), (1, -1)):
        sample = data.sample(index)
        pixels = transforms.decode_image(sample["image"]).numpy()[::turn, ::turn]
        xmin, ymin, xmax, ymax = sample["boxes"].numpy()[0].astype(int)
        means.append(pixels[ymin : ymax + 1, xmin : xmax + 1].mean(axis=(0, 1)))
    first, second, as_stored = means
    assert np.abs(second - first).max() < 20 and np.abs(as_stored - first).max() > 50
