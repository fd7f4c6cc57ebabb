"""Recorded sessions: what is kept, whole or marked; and nothing where nobody asked."""

import base64
import errno
import json
import wave

import numpy as np
import pytest
from fake_engine import FakeEngine
from serve_tools import SILENCE, SPEECH, run, serving, settled, sound_of, talking

from llama_omni.errors import OutputError
from llama_omni.serve.app import create_app
from llama_omni.serve.recording_folder import SessionFolder
from llama_omni.serve.serve_settings import ServeSettings


def recorded(folder):
    return ServeSettings(send_timeout_s=5.0, drain_s=5.0, record=folder)


def entries(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def sound(folder, name):
    with wave.open(str(folder / name)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        data = file.readframes(file.getnframes())
        return np.frombuffer(data, "<i2").astype(np.float32) / 32_768, file.getframerate()


def test_recording_holds_events_and_sound_of_both_sides(tmp_path):
    async def talk():
        async with serving(settings=recorded(tmp_path / "kept")) as running:
            async with talking(running) as client:
                await client.say((400, SILENCE), (800, SPEECH), (1_000, SILENCE))
                events = await client.until("response.done")
                said = pcm = np.full(2_400, 0.5, np.float32)
                audio = base64.b64encode((pcm * 32_767).astype("<i2").tobytes()).decode()
                content = [{"type": "input_audio", "audio": audio}]
                item = {"type": "message", "role": "user", "content": content}
                await client.send("conversation.item.create", item=item)
                added = (await client.until("conversation.item.done"))[-1]["item"]["id"]
                await client.send("conversation.item.retrieve", item_id=added)
                await client.until("conversation.item.retrieved")
            await settled(lambda: running.number("llama_omni_recordings_total", outcome="whole"))
            return events, said, client.events

    events, said, seen = run(talk())
    (folder,) = (tmp_path / "kept").iterdir()
    assert folder.name.endswith(seen[0]["session"]["id"])
    assert folder.stat().st_mode & 0o077 == 0
    first, *middle, last = entries(folder)
    assert first["session"] == seen[0]["session"]["id"]
    assert last["closed"] == 1000
    server = [entry["event"] for entry in middle if entry["from"] == "server"]
    assert [one["event_id"] for one in server] == [one["event_id"] for one in seen]
    heard, rate = sound(folder, "input-24000.wav")
    assert (len(heard), rate) == (2_200 * 24, 24_000)
    assert heard[9_600 + 100] == pytest.approx(0.9, abs=1e-3)
    item_id = next(e["item_id"] for e in server if e["type"] == "response.output_audio.delta")
    reply, _ = sound(folder, f"reply-{item_id}.wav")
    np.testing.assert_allclose(reply, sound_of(events), atol=1e-4)
    given, _ = sound(folder, "item-1.wav")
    np.testing.assert_allclose(given, said, atol=1e-3)
    places = [e["event"]["audio"] for e in middle if "append" in e["event"]["type"]]
    assert places[0] == {"file": "input-24000.wav", "first_sample": 0, "end_sample": 2_400}
    assert all(one["end_sample"] - one["first_sample"] > 0 for one in places)
    assert all(len(line) < 4_000 for line in (folder / "events.jsonl").read_text().splitlines())


def test_sound_is_kept_at_the_rate_that_it_was_sent_in(tmp_path):
    async def talk():
        async with serving(settings=recorded(tmp_path)) as running:
            async with talking(running) as client:
                await client.say((100, 0.5))
                form = {"format": {"type": "audio/pcmu"}}
                session = {"type": "realtime", "audio": {"input": form, "output": form}}
                await client.send("session.update", session=session)
                await client.connection.send(
                    {
                        "type": "input_audio_buffer.append",
                        "audio": base64.b64encode(bytes(800)).decode(),
                    }
                )
                await client.send("input_audio_buffer.append", audio="?")
                await client.ask()
                await client.until("response.done")
            await settled(lambda: running.number("llama_omni_recordings_total", outcome="whole"))

    run(talk())
    (folder,) = tmp_path.iterdir()
    assert sound(folder, "input-24000.wav")[0].shape == (2_400,)
    low, rate = sound(folder, "input-8000.wav")
    assert (low.shape, rate) == ((800,), 8_000)
    assert low.min() < -0.9  # zeros are the loudest of mu-law
    (reply,) = folder.glob("reply-*.wav")
    assert sound(folder, reply.name)[1] == 8_000
    assert {"unreadable": 1} in [e.get("event", {}).get("audio") for e in entries(folder)]


def test_frames_that_are_no_events_are_counted_and_not_kept(tmp_path):
    async def talk():
        async with serving(settings=recorded(tmp_path)) as running:
            async with running.socket() as socket:
                for frame in ("{", "[1]", b"\xff\x00", "[" * 2_000, '{"type": "\\ud800"}'):
                    await socket.send(frame)
                for _ in range(6):
                    await socket.recv()
            await settled(lambda: running.number("llama_omni_recordings_total", outcome="whole"))

    run(talk())
    (folder,) = tmp_path.iterdir()
    assert [e["unreadable"] for e in entries(folder) if "unreadable" in e] == [1, 3, 2, 2_000]


def test_full_disk_gives_the_recording_up_and_no_session(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def talk():
        async with serving(FakeEngine(), recorded(tmp_path)) as running:
            async with talking(running) as client:
                await client.ask()
                await client.until("response.done")
                monkeypatch.setattr(SessionFolder, "write", full)
                await client.ask()
                events = await client.until("response.done")
                assert events[-1]["response"]["status"] == "completed"
            name = "llama_omni_recordings_total"
            await settled(lambda: running.number(name, outcome="partial") == 1)

    run(talk())
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith(".partial")
    assert len(entries(folder)) > 5
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len([w for w in warnings if "recording given up" in w and "No space left" in w]) == 1


def test_slow_disk_gives_the_recording_up(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_omni.serve.recording._MAX_BYTES", 1_000)

    async def talk():
        async with serving(FakeEngine(), recorded(tmp_path)) as running:
            async with talking(running) as client:
                await client.ask()
                await client.until("response.done")
            name = "llama_omni_recordings_total"
            await settled(lambda: running.number(name, outcome="partial") == 1)

    run(talk())
    assert [folder.name.endswith(".partial") for folder in tmp_path.iterdir()] == [True]


def test_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--record must be a folder that can be written"):
        create_app(FakeEngine(), ServeSettings(record=tmp_path / "file" / "kept"))


def test_nothing_is_kept_where_nobody_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def no(*_):
        raise AssertionError("something is written")

    monkeypatch.setattr(SessionFolder, "__init__", no)

    async def talk():
        async with serving() as running, talking(running) as client:
            await client.say((400, SILENCE), (800, SPEECH), (1_000, SILENCE))
            await client.until("response.done")

    run(talk())
    assert list(tmp_path.iterdir()) == []
