"""Images that stay on the training device: a window of rendered ones, and photographs."""

from __future__ import annotations

import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generated_photographs import SIZE_PX, make_photographs
from generated_shards import GeneratedShards
from test_training_resume import expect_equal

from handmesh.errors import UserError
from handmesh.hand_model import load_hand_model
from handmesh.synthetic.config import SynthConfig
from handmesh.synthetic.light import load_places
from handmesh.synthetic.scene import render_sample
from handmesh.synthetic.stream import ImageStream, StreamPlan
from handmesh.training.checkpoint import load_checkpoint
from handmesh.training.command import AugmentConfig, DataConfig, ModelConfig, ScheduleConfig, TrainCommand
from handmesh.training.data import Batch, TrainingData
from handmesh.training.loop import train
from handmesh.training.photographs import PhotographSource
from handmesh.training.pool import DeviceStore, PhotographPool, RenderedPool, Window, mirror_some, scrambled

BATCH, STEPS = 8, 6
WINDOW = Window(first=24, capacity=40, growth=1_000_000)
PLAN = StreamPlan(SynthConfig(size_px=64), seed=3, hand_model="open", hdri=None, validation=16, ring=112)


@pytest.fixture
def streams():
    """Opens streams and ends their processes."""
    opened: list[ImageStream] = []

    def open_stream(folder: Path, plan: StreamPlan = PLAN) -> ImageStream:
        opened.append(ImageStream(plan, folder, workers=1))
        return opened[-1]

    yield open_stream
    for stream in opened:
        stream.close()


def data_of(stream: ImageStream) -> TrainingData:
    pool = RenderedPool(stream, WINDOW, load_hand_model("open"), 64, "cpu")
    return TrainingData([pool], [1.0], BATCH, mirror_share=0.3)


def test_a_window_grows_then_moves_and_depends_on_the_draw_alone():
    low, high = WINDOW.ends(np.arange(100))
    assert low[0] == 0 and high[0] == 24
    assert (np.diff(high) == 1).all() and (high - low).max() == 40
    np.testing.assert_array_equal(WINDOW.ends(np.array([77]))[0], low[77:78])


def test_scrambled_numbers_are_even_and_their_own():
    numbers = scrambled(0, np.arange(50_000)) / 2.0**64
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.std() - 12**-0.5) < 0.01
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert scrambled(0, np.array([7])) == scrambled(0, np.arange(9))[7] != scrambled(1, np.array([7]))
    assert scrambled(0, np.array([7]), stream=1) != scrambled(0, np.array([7]))


def test_mirrored_rows_are_what_a_source_reads_mirrored(hand_model):
    source = GeneratedShards(hand_model).source()
    picks, nobody = np.arange(24), np.zeros(24, bool)
    is_mirrored = np.resize([True, False, True], 24)
    ours = mirror_some(source.read(picks, nobody, picks), torch.from_numpy(is_mirrored))
    theirs = source.read(picks, is_mirrored, picks)
    for field in fields(Batch):
        torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name), msg=field.name, rtol=0, atol=1e-6)


def test_a_store_gives_back_what_was_put_there(hand_model):
    batch = GeneratedShards(hand_model).batch(12)
    store = DeviceStore(20, "cpu")
    store.put(np.arange(4, 16), batch)
    taken = store.take(np.array([15, 4, 9]))
    for field in fields(Batch):
        assert torch.equal(getattr(taken, field.name), getattr(batch.rows([11, 0, 5]), field.name)), field.name


def test_images_are_those_of_their_numbers_and_outlive_their_processes(tmp_path, streams):
    stream = streams(tmp_path)
    numbers = np.array([0, 17, 40])
    stream.want(16, 48)
    images, labels = stream.images(numbers), stream.labels(numbers)
    places = load_places(None, None, PLAN.pictures)
    for number, image, label in zip(numbers, images, labels, strict=True):
        sample = render_sample(stream.hand_model, PLAN.pictures, places, PLAN.seed, int(number))
        # Sums depend on the number of threads in their last bits.
        assert np.abs(image.astype(int) - sample.image).max() <= 1
        np.testing.assert_allclose(label["keypoints_px"], sample.label["keypoints_px"], atol=1e-3)
    stream.close()
    again = streams(tmp_path)
    again.want(16, 48)
    np.testing.assert_array_equal(again.images(numbers), images)
    other = streams(tmp_path, replace(PLAN, seed=4))
    other.want(16, 48)
    assert (other.images(numbers) != images).any()


def test_a_process_that_died_is_told(tmp_path, streams):
    stream = streams(tmp_path)
    stream.want(16, 32)
    stream.wait_for(np.arange(16, 32))
    for process in stream._processes:
        process.kill()
    with pytest.raises(UserError, match="one died"):
        stream.images(np.array([100]))


def test_a_plan_that_does_not_fit_is_refused(tmp_path, streams, hand_model):
    with pytest.raises(UserError, match="multiple of 16"):
        replace(PLAN, ring=100)
    with pytest.raises(UserError, match="square"):
        replace(PLAN, pictures=SynthConfig(aspect=1.5))
    with pytest.raises(UserError, match="ring of at least"):
        RenderedPool(streams(tmp_path), replace(WINDOW, capacity=64), hand_model, 64, "cpu")
    with pytest.raises(UserError, match="first <= capacity"):
        Window(20, 10, 0)


def test_batches_are_the_same_from_any_step_on(tmp_path, streams):
    ours = data_of(streams(tmp_path / "a"))
    every = [ours.batch(0, step) for step in range(20)]
    assert max(int(batch.index.max()) for batch in every) > PLAN.validation + PLAN.ring // 2
    # Rendered anew, from the window of that step on.
    theirs = data_of(streams(tmp_path / "b")).batch(0, 19)
    for field in fields(Batch):
        assert torch.equal(getattr(theirs, field.name), getattr(every[-1], field.name)), field.name
    held_out = torch.cat([batch.index for batch in ours.validation_batches(5)])
    assert held_out.tolist() == list(range(16))


@pytest.mark.parametrize("is_file_kept", [True, False])
def test_stopped_and_resumed_is_bit_for_bit_what_it_would_have_been(tmp_path, streams, is_file_kept):
    command = TrainCommand(
        out=tmp_path / "whole",
        device="cpu",
        precision="f32",
        validate_every_pictures=3 * BATCH,
        model=ModelConfig(size_px=64, head="pooled", drop_path=0.1),
        data=DataConfig(batch_size=BATCH, validation_pictures=16, prefetch_batches=2),
        schedule=ScheduleConfig(pictures=STEPS * BATCH, warmup_pictures=2 * BATCH),
    )
    images = tmp_path / "images"
    train(replace(command, keep_every_pictures=3 * BATCH), data_of(streams(images)))
    stopped = replace(command, out=tmp_path / "stopped")
    # Its time is over before the first step.
    train(stopped, data_of(streams(tmp_path / "others")), stop_at=time.monotonic())
    assert load_checkpoint(stopped.out / "last.pt").step == 0
    shutil.copy(command.out / f"pictures-{3 * BATCH:09d}.pt", stopped.out / "last.pt")
    train(replace(stopped, resume=True), data_of(streams(images if is_file_kept else tmp_path / "anew")))
    ours, theirs = load_checkpoint(stopped.out / "last.pt"), load_checkpoint(command.out / "last.pt")
    assert ours.step == theirs.step == STEPS
    for name in ("model", "ema", "optimizer", "best"):
        expect_equal(getattr(ours, name), getattr(theirs, name))


def test_photographs_on_the_device_are_those_of_their_source(tmp_path, hand_model):
    still = AugmentConfig(camera_probability=0.0, roll_probability=0.0)
    reader = make_photographs(tmp_path / "photographs", hand_model, with_params=True)
    source, pool = PhotographSource(reader, hand_model, SIZE_PX, 4, still), PhotographPool(reader, hand_model, SIZE_PX, 4, still, "cpu")
    picks = pool.picks(0, np.arange(30))
    np.testing.assert_array_equal(picks, source.picks(0, np.arange(30)))
    is_mirrored = np.resize([False, True, False], 30)
    ours, theirs = pool.read(picks, is_mirrored, picks), source.read(picks, is_mirrored, picks)
    for field in fields(Batch):
        torch.testing.assert_close(getattr(ours, field.name), getattr(theirs, field.name), msg=field.name)


def test_photographs_are_seen_by_cameras_that_vary_as_asked(tmp_path, hand_model):
    cameras = AugmentConfig(camera_probability=1.0, roll_probability=0.0, zoom_sd=0.1, zoom_limit=0.9, shift_sd=0.0)
    reader = make_photographs(tmp_path / "photographs", hand_model)
    pool = PhotographPool(reader, hand_model, SIZE_PX, 4, cameras, "cpu")
    picks, seeds = np.full(2000, np.flatnonzero(reader.labels["presence"][reader.of_split(0)])[0]), np.arange(2000)
    focal_px = pool.read(picks, np.zeros(2000, bool), seeds).focal_px.numpy()
    assert abs(focal_px.std() / focal_px.mean() - 0.1) < 0.01
    again = pool.read(picks[500:510], np.zeros(10, bool), seeds[500:510])
    np.testing.assert_array_equal(again.focal_px, focal_px[500:510])
