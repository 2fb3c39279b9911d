"""Films of replays: captions under the frames, several side by side, as GIF or MP4 or into TensorBoard."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from ...envs import Task
from ..errors import RunError
from .recording import Episode
from .rendering import make_drawn
from .replay import Moment, replayed

Frame = np.ndarray[Any, Any]
"""``[height, width, 3]``, uint8."""

_MIN_WIDTH = 320
"""Smaller frames (MiniGrid's) are enlarged, so that a caption fits."""
_LINE = 18
_GAP = 6
_LAST = 1000
"""Milliseconds that the last frame of a GIF is seen before it begins again."""
_BOARD_WIDTH, _BOARD_FRAMES = 240, 80


class VideoError(RunError):
    """A film that cannot be written."""


def check_video_file(path: Path) -> None:
    """Refuse, before anything is drawn, a file that exists or that cannot be encoded here.

    Raises:
        VideoError: it exists, has another ending, no folder, or the codec is not installed.
    """
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise VideoError(f"{str(path)!r}: films are written as .gif or .mp4")
    if path.exists():
        raise VideoError(f"{str(path)!r} exists and is not overwritten; name another file")
    if not path.parent.is_dir():
        raise VideoError(f"{str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.suffix.lower() == ".mp4":
        _encoder()


def write_video(path: Path, frames: Iterable[Frame], fps: float) -> int:
    """Write ``frames`` to a new file, whole or not at all; returns their number.

    Args:
        path: ending in ``.gif`` (looped; at most 50 frames per second) or ``.mp4``.
        frames: all of one size.
        fps: frames per second.

    Raises:
        VideoError: see :func:`check_video_file`.
    """
    check_video_file(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
        count = write(temporary, frames, fps)
        os.link(temporary, path)  # unlike rename, fails if somebody has written `path` meanwhile
    except FileExistsError:
        raise VideoError(f"{str(path)!r} exists and is not overwritten; name another file") from None
    except OSError as error:
        raise VideoError(f"{str(path)!r} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def film(task: Task, episode: Episode, title: str) -> Iterator[Frame]:
    """The frames of a replayed episode with their captions, each checked against the record."""
    for moment in replayed(task, episode, "rgb_array"):
        assert moment.frame is not None
        yield captioned(moment.frame, [title, describe(moment)])


def side_by_side(films: Sequence[Iterator[Frame]]) -> Iterator[Frame]:
    """Films next to each other; one that is over keeps showing its last frame."""
    last: list[Frame] = []
    for frames in zip_longest(*films):
        last = [new if new is not None else old for new, old in zip_longest(frames, last)]
        gap = np.full((len(last[0]), _GAP, 3), 255, np.uint8)
        yield np.concatenate([part for frame in last for part in (frame, gap)][:-1], axis=1)


def describe(moment: Moment) -> str:
    """The line of numbers under a frame."""
    if moment.action is None:
        return "step 0"
    action = np.asarray(moment.action)
    shown = str(action) if action.ndim == 0 else "[" + " ".join(f"{x:.1f}" for x in action.flat[:4])
    if action.ndim:
        shown += " ...]" if action.size > 4 else "]"
    return f"step {moment.step}  action {shown}  reward {moment.reward:.3g}  return {moment.total:.5g}"


def captioned(frame: Frame, lines: Sequence[str]) -> Frame:
    """``frame``, enlarged if it is small, with ``lines`` beneath; width and height are even, as MP4 needs."""
    enlarge = -(-_MIN_WIDTH // frame.shape[1])
    frame = frame.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    height, width = frame.shape[0], frame.shape[1]
    total = height + _LINE * len(lines) + 6
    image = Image.new("RGB", (width + width % 2, total + total % 2), "white")
    image.paste(Image.fromarray(frame), (0, 0))
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((6, height + 3 + row * _LINE), _fitting(line, width - 12), "black", _font())
    return np.asarray(image)


def frames_per_second(task: Task) -> float:
    """What the environment says of itself; 30 if it says nothing."""
    env = make_drawn(task, "rgb_array")
    env.close()
    return float(env.metadata.get("render_fps") or 30)


def log_video(logger: Logger, tag: str, task: Task, episode: Episode, env_steps: int) -> None:
    """Show an episode in TensorBoard: a GIF of at most 80 frames, 240 wide, among the images.

    SB3's ``Video`` needs moviepy, and torch's writer a release of it that is no longer made; TensorBoard
    itself shows any GIF.
    """
    every = -(-(episode.length + 1) // _BOARD_FRAMES)
    moments = islice(replayed(task, episode, "rgb_array"), 0, None, every)
    images = _paletted(_small(moment.frame) for moment in moments if moment.frame is not None)
    buffer = io.BytesIO()
    fps = frames_per_second(task)
    _save_gif(buffer, images, fps / every)
    picture = Summary.Image(
        height=images[0].height,
        width=images[0].width,
        colorspace=3,
        encoded_image_string=buffer.getvalue(),
    )
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            writer = output.writer._get_file_writer()  # type: ignore[no-untyped-call]
            writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), env_steps)


def _small(frame: Frame) -> Image.Image:
    image = Image.fromarray(frame)
    height = max(1, round(image.height * _BOARD_WIDTH / image.width))
    return image.resize((_BOARD_WIDTH, height))


def _write_gif(path: Path, frames: Iterable[Frame], fps: float) -> int:
    images = _paletted(Image.fromarray(frame) for frame in frames)
    _save_gif(path, images, fps)
    return len(images)


def _paletted(frames: Iterable[Image.Image]) -> list[Image.Image]:
    """All frames in the palette of the first, undithered: GIF then keeps only what changes between them."""
    images: list[Image.Image] = []
    for frame in frames:
        images.append(
            frame.quantize(palette=images[0], dither=Image.Dither.NONE) if images else frame.quantize(128)
        )
    return images


def _save_gif(target: Any, images: Sequence[Image.Image], fps: float) -> None:
    """Write a GIF that runs again and again; its last frame stays for a second, so that the end is seen."""
    each = _duration(fps)
    durations: Any = [*([each] * (len(images) - 1)), max(each, _LAST)] if len(images) > 1 else each
    images[0].save(target, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def _duration(fps: float) -> int:
    """Milliseconds per frame. GIF counts in hundredths of a second; browsers slow down what is under two."""
    return max(20, round(100 / fps) * 10)


def _write_mp4(path: Path, frames: Iterable[Frame], fps: float) -> int:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    frames = iter(frames)
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    sink = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=2, codec="libx264")
    count = 0
    try:
        sink.send(None)
        for frame in (first, *frames):
            sink.send(np.ascontiguousarray(frame))
            count += 1
    finally:
        sink.close()
    return count


def _encoder() -> None:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise VideoError(
            f'MP4 needs ffmpeg ({error}): pip install "pliant[video]", or write a .gif, which needs no more'
        ) from None


@cache
def _font() -> Any:
    return ImageFont.load_default(13)


def _fitting(line: str, width: int) -> str:
    """``line``, shortened until it is at most ``width`` pixels wide."""
    font = _font()
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
