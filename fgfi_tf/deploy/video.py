"""Videos frame by frame, by OpenCV, else by the ffmpeg program. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.errors import UserError

_HIGHEST_RATE = 480.0  # frames a second; recordings of screens and browsers tell their clock's, 1000 or 90000
_NEEDED = "videos are read by OpenCV (pip install -e '.[video]') or by the ffmpeg program; neither is here"


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        path: the file.
        size: (height, width) of its frames.
        frames: how many the file says it has, which may be off by a few.
        rate: frames a second.
    """

    path: Path
    size: tuple[int, int]
    frames: int
    rate: float

    @classmethod
    def open(cls, path: Path) -> Video:
        """Raises UserError where nothing reads videos here, or the file is none."""
        if not path.is_file():
            raise UserError(f"{path} is a folder, not a video" if path.is_dir() else f"{path}: no such file")
        try:
            str(path).encode()
        except UnicodeEncodeError:  # OpenCV would end the process
            raise UserError(f"{ascii(str(path))}: the name is not UTF-8: rename it") from None
        path = path.absolute()  # a colon in a name would be taken for a protocol, a dash for an option
        cv2 = _opencv()
        found = _probe_opencv(cv2, path) if cv2 else _probe_ffmpeg(path)
        if found is None or min(found[0]) < 1:
            raise UserError(f"{path} is not a video that can be read here")
        return cls(path, *found)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames in their order, uint8 RGB [H, W, 3]."""
        cv2 = _opencv()
        return self._by_opencv(cv2) if cv2 else self._by_ffmpeg()

    def _by_opencv(self, cv2: Any) -> Iterator[np.ndarray]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield np.ascontiguousarray(frame[..., ::-1])
        finally:
            capture.release()

    def _by_ffmpeg(self) -> Iterator[np.ndarray]:
        command = ["ffmpeg", "-v", "error", "-i", str(self.path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        count = self.size[0] * self.size[1] * 3
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                while len(data := process.stdout.read(count)) == count:
                    yield np.frombuffer(data, np.uint8).reshape(*self.size, 3)
            finally:
                process.terminate()


class VideoWriter:
    """Writes an MP4; to be used in a ``with``.

    Args:
        path: a file that is not there.
        size: (height, width) of the frames.
        rate: frames a second.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float):
        self._path, self._process, self._writer = path, None, None
        height, width = size
        self._pad = ((0, height % 2), (0, width % 2), (0, 0))  # MPEG-4 has even sides
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2 = _opencv()
        if cv2:
            # MPEG-4 counts time in fractions of up to 65,535; OpenCV gives it thousandths of the rate
            rate = round(rate, 2) if rate * 1000 > 65535 else rate
            sides = width + width % 2, height + height % 2
            self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, sides)
            if not self._writer.isOpened():
                raise UserError(f"{path}: OpenCV cannot write this video")
            return
        given = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
            "-r",
            f"{rate:g}",
            "-i",
            "-",
        ]
        made = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", str(path)]
        command = ["ffmpeg", "-v", "error", "-y", *given, *made]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def append(self, frame: np.ndarray) -> None:
        """Adds a frame, uint8 RGB [H, W, 3]."""
        if self._writer is not None:
            self._writer.write(np.ascontiguousarray(np.pad(frame[..., ::-1], self._pad, mode="edge")))
            return
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).tobytes())
        except BrokenPipeError as error:
            raise UserError(f"{self._path}: ffmpeg cannot write this video") from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if self._writer is not None:
            self._writer.release()
            return
        with contextlib.suppress(BrokenPipeError):  # of an ffmpeg that is gone, whose exit code tells of it
            self._process.stdin.close()
        if self._process.wait() and kind is None:
            raise UserError(f"{self._path}: ffmpeg cannot write this video")


def _opencv() -> Any:
    """The package; None where it is not installed and ffmpeg is. Raises UserError where neither is there."""
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
            raise UserError(_NEEDED) from error
        return None


def _probe_opencv(cv2: Any, path: Path) -> tuple[tuple[int, int], int, float] | None:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            return None
        keys = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)
        height, width, frames = (int(capture.get(key)) for key in keys)
        frames, rate = max(frames, 0), float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
        if rate > _HIGHEST_RATE:  # of the clock: the frames come at rates of their own
            times = []  # milliseconds
            while capture.grab():
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            there, ticks = len(times), frames
            lasts = times[-1] - times[0] if times else 0.0
            if ticks:
                rate = there * rate / ticks
            else:  # of a recording that was sent while it was made: without its length
                rate = (there - 1) / lasts * 1000.0 if lasts > 0.0 else 25.0
            frames, rate = there, max(rate, 1.0)
        return (height, width), frames, rate
    finally:
        capture.release()


def _probe_ffmpeg(path: Path) -> tuple[tuple[int, int], int, float] | None:
    entries = "stream=width,height,r_frame_rate,nb_read_packets:stream_tags=rotate:stream_side_data=rotation"
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries", entries]
    done = subprocess.run([*command, "-of", "json", str(path)], capture_output=True, text=True, check=False)
    try:
        (stream,) = json.loads(done.stdout)["streams"]
        rate = float(Fraction(stream["r_frame_rate"]))
        size = stream["height"], stream["width"]
        return size[::-1] if _lies(stream) else size, int(stream["nb_read_packets"]), rate
    except (ValueError, KeyError, ZeroDivisionError):
        return None


def _lies(stream: dict) -> bool:
    """Whether ffmpeg turns the frames of a video by a right angle, as telephones have them turned."""
    turns = [stream.get("tags", {}).get("rotate", 0)]  # of old versions; of later ones in the side data
    turns += [data.get("rotation", 0) for data in stream.get("side_data_list", ())]
    return any(round(float(turn)) % 180 == 90 for turn in turns)
