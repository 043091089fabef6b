"""The program of README's section on one's own models: README has it whole, and it learns."""

import re
import runpy

import numpy as np
import pytest
from places import REPOSITORY

PROGRAM = REPOSITORY / "scripts" / "examples" / "own_models.py"


def test_readme_has_the_whole_program():
    section = (REPOSITORY / "README.md").read_text().split("## Imitation in your own model\n")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    assert code == PROGRAM.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["keras", pytest.param("tf_keras", marks=pytest.mark.long)])
def test_the_program_lowers_both_losses(keras, tmp_path, capsys):
    """As it stands, and changed as its first lines say for Keras 2."""
    program = tmp_path / "own_models.py"
    text = PROGRAM.read_text()
    if keras == "tf_keras":
        text, changed = re.subn(r"^import keras\b.*", "import tf_keras as keras", text, flags=re.MULTILINE)
        assert changed == 1 and "fgfi_tf.imitation.keras3" in text
        text = text.replace("fgfi_tf.imitation.keras3", "fgfi_tf.imitation.layer")
    program.write_text(text)
    losses = np.array(runpy.run_path(str(program))["main"](steps=14))
    assert losses.shape == (14, 2) and np.isfinite(losses).all()
    first, last = losses[:3].mean(axis=0), losses[-3:].mean(axis=0)
    assert (last < [0.9 * first[0], 0.5 * first[1]]).all(), (first, last)
    assert "step 10: detection" in capsys.readouterr().out
