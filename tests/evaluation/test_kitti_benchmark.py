"""The evaluation's benchmark runs, agrees with the plain loop, and writes its table."""

import json
import subprocess
import sys

from places import REPOSITORY


def test_the_benchmark(tmp_path):
    script = REPOSITORY / "scripts" / "benchmark" / "kitti_eval.py"
    flags = ["--frames=10,20", "--loop_frames=20", "--repeats=1", f"--output_dir={tmp_path}"]
    done = subprocess.run([sys.executable, str(script), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "kitti_eval.json").read_text())
    assert [row["frames"] for row in rows] == [10, 20]
    assert all(row["text_seconds"] > 0 and row["loop_seconds"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert (tmp_path / "kitti_eval.md").read_text() == done.stdout
