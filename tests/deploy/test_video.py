"""predict.py on videos, by OpenCV and by ffmpeg (a stand-in that speaks its raw frames)."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import predict
import pytest

from fgfi_tf import cli
from fgfi_tf.deploy import video
from fgfi_tf.deploy.video import Video, VideoWriter
from fgfi_tf.errors import UserError
from fgfi_tf.prediction import Predictor

LEVELS = (40, 120, 200)
SCORE = 2  # its column in detections.csv

FFMPEG = """#!{python}
import sys
if "-i" in sys.argv and "-" == sys.argv[-1]:
    sys.stdout.buffer.write(open(sys.argv[sys.argv.index("-i") + 1], "rb").read())
else:
    open(sys.argv[-1], "wb").write(sys.stdin.buffer.read())
"""
FFPROBE = """#!{python}
import os, sys
frames = os.path.getsize(sys.argv[-1]) // (16 * 24 * 3)
import json
stream = dict(width=24, height=16, r_frame_rate="30000/1001", nb_read_packets=str(frames))
stream |= json.loads(os.environ.get("TURNED", "{{}}"))
print(json.dumps(dict(streams=[stream] if frames else [])))
"""


def one_box(images):
    """An object as large as the frame, whose score is the frame's brightness."""
    count, height, width, _ = images.shape
    return {
        "boxes": np.array([[[0, 0, width - 1, height - 1]]] * count, np.float32),
        "scores": np.asarray(images).mean((1, 2, 3))[:, None].astype(np.float32) / 256,
        "classes": np.zeros((count, 1), np.int32),
        "count": np.ones(count, np.int32),
    }


@pytest.fixture(name="ffmpeg")
def ffmpeg_fixture(monkeypatch, tmp_path):
    """Programs called ffmpeg and ffprobe for raw frames of 16 x 24, and no OpenCV."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ffmpeg", FFMPEG), ("ffprobe", FFPROBE)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "cv2", None)


@pytest.fixture(name="run")
def run_fixture(monkeypatch, tmp_path):
    def run(*arguments):
        model = Predictor(run.made["function"], ("Car", "Pedestrian", "Cyclist"), "MODEL", "kitti")
        monkeypatch.setattr(Predictor, "load", lambda path, name: model)
        with pytest.raises(SystemExit) as end:
            given = ["--model_path=MODEL", f"--output_dir={tmp_path / 'out'}", "--batch_size=2"]
            cli.run(predict.main, ["predict.py", *given, *arguments])
        return end.value.code

    run.made = {"function": one_box}
    return run


def frames(height=16, width=24):
    return [np.full((height, width, 3), level, np.uint8) for level in LEVELS]


def check_results(folder):
    rows = (folder / "detections.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"drive/{number:06d}" for number in range(3)]
    scores = [float(row.split(",")[SCORE]) for row in rows]
    np.testing.assert_allclose(scores, np.array(LEVELS) / 256, atol=0.02)


def test_by_ffmpeg(ffmpeg, run, tmp_path, capsys):
    (tmp_path / "drive.mp4").write_bytes(b"".join(frame.tobytes() for frame in frames()))
    found = Video.open(tmp_path / "drive.mp4")
    assert (found.size, found.frames) == ((16, 24), 3)
    np.testing.assert_allclose(found.rate, 29.97, atol=0.01)
    assert run(f"--video={tmp_path / 'drive.mp4'}", "--results=csv") == 0
    assert capsys.readouterr().out.startswith("3 frames, ")
    check_results(tmp_path / "out")
    drawn = np.frombuffer((tmp_path / "out/drive.mp4").read_bytes(), np.uint8).reshape(3, 16, 24, 3)
    assert (drawn[0] == LEVELS[0]).all()  # a score of 0.16 is not drawn
    assert (drawn[2] == LEVELS[2]).any() and (drawn[2] != LEVELS[2]).any()


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ('{"side_data_list": [{}, {"rotation": -90}]}', (24, 16)),
        ('{"tags": {"rotate": "270"}}', (24, 16)),
        ('{"side_data_list": [{"rotation": 180}], "tags": {"rotate": "180"}}', (16, 24)),
    ],
)
def test_frames_that_ffmpeg_turns(ffmpeg, monkeypatch, tmp_path, told, size):
    """A telephone stores frames as its sensor lies; ffmpeg gives them as they were seen."""
    monkeypatch.setenv("TURNED", told)
    upright = np.arange(16 * 24 * 3).reshape(*size, 3).astype(np.uint8)
    (tmp_path / "drive.mp4").write_bytes(upright.tobytes())
    found = Video.open(tmp_path / "drive.mp4")
    assert found.size == size
    np.testing.assert_array_equal(next(iter(found)), upright)


def test_what_was_found_before_an_interruption_is_kept(ffmpeg, run, monkeypatch, tmp_path, capsys):
    (tmp_path / "drive.mp4").write_bytes(b"".join(frame.tobytes() for frame in frames()))
    calls = []

    def interrupted(images):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return one_box(images)

    monkeypatch.setitem(run.made, "function", interrupted)
    assert run(f"--video={tmp_path / 'drive.mp4'}", "--results=kitti") == 130
    written = sorted(path.name for path in (tmp_path / "out/drive").iterdir())
    assert written == ["000000.txt", "000001.txt"]


def test_an_ffmpeg_that_gives_up(ffmpeg, tmp_path):
    """Its broken pipe is not that of our own output, which ends a command without a word."""
    (tmp_path / "bin/ffmpeg").write_text(
        f"#!{sys.executable}\nimport sys, time\ntime.sleep(0.5)\nsys.exit(1)\n"
    )
    for count in (1, 500):  # told by its exit code alone; while what waits to be written is kept
        with (
            pytest.raises(UserError, match="new.mp4: ffmpeg cannot write this video"),
            VideoWriter(tmp_path / "new.mp4", (16, 24), 5.0) as writer,
        ):
            for _ in range(count):
                writer.append(frames()[0])


def test_by_opencv(run, tmp_path, capsys):
    pytest.importorskip("cv2", reason="needs the extra [video]")
    with VideoWriter(tmp_path / "drive.mp4", (48, 64), 10.0) as writer:
        for frame in frames(48, 64):
            writer.append(frame)
    found = Video.open(tmp_path / "drive.mp4")
    assert (found.size, found.frames, found.rate) == ((48, 64), 3, 10.0)
    for frame, level in zip(found, LEVELS, strict=True):
        assert frame.dtype == np.uint8 and abs(int(frame[20, 20, 0]) - level) < 8
    assert run(f"--video={tmp_path / 'drive.mp4'}", "--results=csv") == 0
    check_results(tmp_path / "out")
    assert len(list(Video.open(tmp_path / "out/drive.mp4"))) == 3
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="text.mp4 is not a video that can be read here"):
        Video.open(tmp_path / "text.mp4")


@pytest.mark.parametrize("rate", [119.957, 239.823, 29.97, 480.0])
def test_rates_of_slow_motion_can_be_written(tmp_path, rate):
    pytest.importorskip("cv2", reason="needs the extra [video]")
    with VideoWriter(tmp_path / "slow.mp4", (48, 64), rate) as writer:
        for frame in frames(48, 64):
            writer.append(frame)
    found = Video.open(tmp_path / "slow.mp4")
    assert found.frames == 3 and found.rate == pytest.approx(rate, abs=0.01)


def test_odd_sides_keep_their_last_row_and_column(tmp_path):
    pytest.importorskip("cv2", reason="needs the extra [video]")
    with VideoWriter(tmp_path / "odd.mp4", (47, 63), 10.0) as writer:
        for frame in frames(47, 63):
            writer.append(frame)
    found = Video.open(tmp_path / "odd.mp4")
    assert found.size == (48, 64)
    for frame, level in zip(found, LEVELS, strict=True):
        assert abs(int(frame[47, 63, 0]) - level) < 8


def test_a_video_without_a_frame_leaves_the_result_before_it(ffmpeg, run, monkeypatch, tmp_path, capsys):
    (tmp_path / "drive.mp4").write_bytes(b"".join(frame.tobytes() for frame in frames()))
    monkeypatch.setattr(Video, "__iter__", lambda self: iter(()))
    assert run(f"--video={tmp_path / 'drive.mp4'}") == 1
    assert "drive.mp4: no frame of this video can be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/drive.mp4").write_text("of last time")
    assert run(f"--video={tmp_path / 'drive.mp4'}", "--overwrite") == 1
    assert (tmp_path / "out/drive.mp4").read_text() == "of last time"


@pytest.mark.parametrize(
    ("ticks", "times", "rate"),
    [
        (3982, np.linspace(0.0, 3950.0, 114), 114 / 3.982),  # 114 frames in 3.982 s, told as 3,982 frames
        (-9.2e18, np.linspace(500.0, 4455.0, 114), 113 / 3.955),  # sent while it was made: no length
        (-9.2e18, [40.0], 25.0),
    ],
)
def test_the_rate_of_a_video_that_tells_its_clocks(ticks, times, rate):
    class Capture:
        last = -1
        isOpened = staticmethod(lambda: True)
        release = staticmethod(lambda: None)

        def get(self, key):
            known = {"h": 16, "w": 24, "n": ticks, "fps": 1000.0}
            return times[self.last] if key == "ms" else known[key]

        def grab(self):
            self.last += 1
            return self.last < len(times)

    cv2 = types.SimpleNamespace(
        VideoCapture=lambda path: Capture(),
        CAP_PROP_FRAME_HEIGHT="h",
        CAP_PROP_FRAME_WIDTH="w",
        CAP_PROP_FRAME_COUNT="n",
        CAP_PROP_FPS="fps",
        CAP_PROP_POS_MSEC="ms",
    )
    size, count, found = video._probe_opencv(cv2, Path("screen.webm"))
    assert (size, count) == ((16, 24), len(times)) and found == pytest.approx(rate)


def test_no_video(ffmpeg, run, tmp_path, capsys):
    assert run(f"--video={tmp_path / 'absent.mp4'}") == 1
    (tmp_path / "empty.mp4").touch()
    assert run(f"--video={tmp_path / 'empty.mp4'}") == 1
    assert run("--video=a.mp4", "--images=b") == 1
    assert run(f"--video={tmp_path}") == 1
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    assert first.endswith("absent.mp4: no such file")
    assert second.endswith("empty.mp4 is not a video that can be read here")
    assert third == "predict.py: error: give --images or --video, not both"
    assert fourth.endswith("is a folder, not a video")


def test_a_video_is_not_written_over(ffmpeg, run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/drive.mp4").write_bytes(b"".join(frame.tobytes() for frame in frames()))
    assert run(f"--video={tmp_path / 'out/drive.mp4'}", "--overwrite") == 1
    assert "drive.mp4 is an input and would be overwritten" in capsys.readouterr().err


def test_names_that_other_programs_take_otherwise(ffmpeg, monkeypatch, tmp_path):
    """The stand-in would open a file of any name; ffmpeg takes 12: for a protocol, and -v for an option."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.raw", "-v.raw"):
        (tmp_path / name).write_bytes(np.stack(frames()).tobytes())
        assert Video.open(Path(name)).path == tmp_path / name
    (tmp_path / os.fsdecode(b"stra\xdfe.raw")).write_bytes(b"")
    with pytest.raises(UserError, match=r"stra\\udcdfe.raw': the name is not UTF-8: rename it"):
        Video.open(Path(os.fsdecode(b"stra\xdfe.raw")))


def test_nothing_reads_videos(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(video.shutil, "which", lambda name: None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match=r"OpenCV \(pip install -e '.\[video\]'\) or by the ffmpeg program"):
        Video.open(tmp_path / "a.mp4")
