"""Who is let in: keys, client secrets, origins, this machine; and how much at a time."""

import asyncio
import itertools
import json

import httpx
import pytest
from fake_engine import FakeEngine
from openai.types.realtime.client_secret_create_response import ClientSecretCreateResponse
from serve_tools import run, serving, talking
from starlette.applications import Starlette
from starlette.routing import Mount
from websockets.exceptions import InvalidStatus

from llama_omni.errors import CapacityError, ConfigError
from llama_omni.serve.keys import ClientSecrets, Keys, offered_key, read_keys
from llama_omni.serve.origins import is_loopback, neighbourhood, origin_allowed
from llama_omni.serve.page import Page, content_policy
from llama_omni.serve.serve_settings import ServeSettings

KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"
LOCKED = ServeSettings(keys=(KEY, OTHER), drain_s=2.0)


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# two\n{KEY}\n\n  {OTHER}  \n{KEY}\n")
    assert read_keys(file, {}) == (KEY, OTHER)
    assert read_keys(None, {"LLAMA_OMNI_API_KEY": KEY}) == (KEY,)
    assert read_keys(None, {}) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("short", "16 to 512", id="short"),
        pytest.param("# none", "at least one", id="none"),
        pytest.param("sk-01234567 89abcdef", "no space", id="space"),
        pytest.param("sk-0123456789abcdéf", "ASCII", id="letters"),
    ],
)
def test_keys_are_refused_without_being_shown(tmp_path, text, message):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        read_keys(file, {})
    assert text.strip() not in str(refused.value)
    with pytest.raises(ConfigError, match="readable"):
        read_keys(tmp_path / "absent", {})


def test_only_a_known_key_is_known():
    keys = Keys((KEY, OTHER))
    assert keys.knows(KEY)
    assert keys.knows(OTHER)
    for wrong in (None, "", KEY[:-1], KEY + "x", "\ud800"):
        assert not keys.knows(wrong)
    assert not Keys(()).knows("")


def test_key_is_read_from_header_or_subprotocol():
    assert offered_key(f"Bearer {KEY}") == KEY
    assert offered_key(f"Basic {KEY}") is None
    assert offered_key(None, ["realtime", f"openai-insecure-api-key.{KEY}"]) == KEY
    assert offered_key(None, ["realtime"]) is None


def test_secret_expires_and_room_comes_back():
    now = itertools.count(1_000.0, 60.0)
    secrets = ClientSecrets(max_secrets=1, clock=lambda: clock[0])
    clock = [next(now)]
    first = secrets.create({"type": "realtime"}, seconds=60)
    assert secrets.session_of(first.value) == {"type": "realtime"}
    assert secrets.session_of("ek_wrong") is None
    assert secrets.session_of(None) is None
    with pytest.raises(CapacityError, match="at most 1"):
        secrets.create({}, seconds=60)
    clock[0] = next(now)
    assert secrets.session_of(first.value) is None
    assert secrets.create({}, seconds=60).expires_at == 1_120


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "let_in"),
    [
        pytest.param(None, "here:80", (), True, id="program"),
        pytest.param("http://here:80", "here:80", (), True, id="own page"),
        pytest.param("http://evil.org", "here:80", (), False, id="other page"),
        pytest.param("http://here:81", "here:80", (), False, id="other port"),
        pytest.param("null", "here:80", (), False, id="a file"),
        pytest.param("http://", "", (), False, id="nothing"),
        pytest.param("http://[", "here", (), False, id="no URL"),
        pytest.param("https://a.org", "here:80", ("https://a.org",), True, id="named"),
        pytest.param("https://b.org", "here:80", ("https://a.org",), False, id="not named"),
        pytest.param("https://b.org", "here:80", ("*",), True, id="any"),
    ],
)
def test_origin(origin, host, allowed, let_in):
    assert origin_allowed(origin, host, allowed) is let_in


def test_loopback():
    for name in ("127.0.0.1", "localhost", "localhost:80", "127.0.0.1:80", "[::1]:80", "::1"):
        assert is_loopback(name), name
    for name in (None, "", "10.0.0.1", "evil.org:80", "127.0.0.1.evil.org", "::2", "[", "a:b:c"):
        assert not is_loopback(name), name


def test_origins_are_checked():
    with pytest.raises(ConfigError, match=r"https://example\.org"):
        ServeSettings(origins=("example.org",))


async def status(running, **options):
    """The status that a WebSocket is refused with; 101 where it is not."""
    try:
        async with running.socket(**options) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"
            return 101
    except InvalidStatus as error:
        body = json.loads(error.response.body)
        assert body["error"]["message"]
        return error.response.status_code


def test_wrong_key_is_refused_and_the_next_session_works():
    async def talk():
        async with serving(settings=LOCKED) as running:
            bearer = {"Authorization": f"Bearer {KEY}x"}
            assert await status(running, additional_headers=bearer) == 401
            assert await status(running) == 401
            wrong = ["realtime", "openai-insecure-api-key.wrong"]
            assert await status(running, subprotocols=wrong) == 401
            assert running.number("llama_omni_connections_refused_total", code=1) == 0
            reason = "invalid_api_key"
            assert running.number("llama_omni_connections_refused_total", reason=reason) == 3
            async with talking(running, OTHER) as client:
                await client.ask()
                await client.until("response.done")
            right = ["realtime", f"openai-insecure-api-key.{KEY}"]
            async with running.socket(subprotocols=right) as socket:
                assert socket.subprotocol == "realtime"  # and not the key
            for path in ("/v1/models", "/v1/models/llama-omni", "/metrics"):
                async with httpx.AsyncClient(base_url=running.http) as http:
                    assert (await http.get(path)).status_code == 401
                    bearer = {"Authorization": f"Bearer {KEY}"}
                    assert (await http.get(path, headers=bearer)).status_code == 200
                    assert (await http.get("/healthz")).status_code == 200

    run(talk())


def test_pages_from_elsewhere_and_names_from_elsewhere_are_refused():
    async def talk():
        async with serving() as running:
            assert await status(running, origin="https://evil.org") == 403
            own = f"http://127.0.0.1:{running.port}"
            assert await status(running, origin=own) == 101
            async with httpx.AsyncClient() as http:  # a name that was made to point here
                answer = await http.get(f"{running.http}/v1/models", headers={"Host": "evil.org"})
                assert answer.status_code == 403
                assert answer.json()["error"]["code"] == "key_required"

    run(talk())


def test_client_secret_opens_sessions_as_configured_and_nothing_else():
    async def talk():
        async with serving(settings=LOCKED) as running:
            async with running.client(KEY) as client:
                made = await client.realtime.client_secrets.create(
                    expires_after={"anchor": "created_at", "seconds": 60},
                    session={"type": "realtime", "instructions": "Be kind."},
                )
                ClientSecretCreateResponse.model_validate(made.model_dump(), strict=True)
                assert made.session.instructions == "Be kind."
            async with talking(running, made.value) as page:
                assert page.events[0]["session"]["instructions"] == "Be kind."
                await page.ask()
                await page.until("response.done")
            async with httpx.AsyncClient(base_url=running.http) as http:
                bearer = {"Authorization": f"Bearer {made.value}"}
                for ask in (
                    http.get("/v1/models", headers=bearer),
                    http.post(SECRETS, headers=bearer),
                ):
                    assert (await ask).status_code == 401

    run(talk())


SECRETS = "/v1/realtime/client_secrets"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"{", 400, id="no JSON"),
        pytest.param(b"[]", 400, id="a list"),
        pytest.param(b'{"expires_after": {"seconds": 1}}', 400, id="too soon"),
        pytest.param(b'{"expires_after": {"seconds": true}}', 400, id="no number"),
        pytest.param(b'{"expires_after": 5}', 400, id="no object"),
        pytest.param(b'{"expires_after": {"anchor": "never"}}', 400, id="anchor"),
        pytest.param(b'{"session": {"type": "transcription"}}', 400, id="transcription"),
        pytest.param(b'{"session": {"speed": 2}}', 400, id="unknown field"),
        pytest.param(b'{"sesion": {}}', 400, id="unknown"),
        pytest.param(b'{"session": 5}', 400, id="session"),
        pytest.param(b" " * 300_000, 413, id="too large"),
        pytest.param(b"", 200, id="nothing"),
    ],
)
def test_request_for_a_secret_is_checked(body, code):
    async def ask():
        async with serving() as running, httpx.AsyncClient(base_url=running.http) as http:
            answer = await http.post(SECRETS, content=body)
            assert answer.status_code == code, answer.text
            if code != 200:
                assert answer.json()["error"]["message"]
            else:
                assert answer.json()["value"].startswith("ek_")

    run(ask())


def test_sessions_are_limited():
    async def talk():
        settings = ServeSettings(max_sessions=1, drain_s=2.0)
        async with serving(settings=settings) as running:
            async with talking(running):
                assert await status(running) == 503
            assert await status(running) == 101

    run(talk())


def test_no_session_begins_before_the_engine_is_ready():
    async def talk():
        engine = FakeEngine(ready=False)
        async with serving(engine) as running:
            assert await status(running) == 503
            engine.ready = True
            assert await status(running) == 101

    run(talk())


def test_page_is_served_with_its_types_and_its_policy(tmp_path):
    for name in ("index.html", "a.js", "a.css", "a.wav", "a.svg"):
        (tmp_path / name).write_text("x")
    (tmp_path.parent / "outside.html").write_text("x")

    async def ask():
        transport = httpx.ASGITransport(Starlette(routes=[Mount("/", Page(tmp_path))]))
        async with httpx.AsyncClient(transport=transport, base_url="http://here:80") as http:
            kinds = []
            for name in ("", "a.js", "a.css", "a.wav", "a.svg"):
                answer = await http.get(f"/{name}")
                kinds.append(answer.headers["content-type"].split(";")[0])
                policy = answer.headers["content-security-policy"]
                assert "script-src 'self'" in policy
                assert "ws://here" in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
            wanted = "text/html text/javascript text/css audio/wav image/svg+xml"
            assert kinds == wanted.split()
            for path in ("/%2e%2e/outside.html", "/..%2foutside.html", "/absent"):
                assert (await http.get(path)).status_code == 404

    run(ask())
    assert "ws://" not in content_policy("evil.org; script-src *")


def test_absent_page_is_not_found():
    async def ask():
        async with serving() as running, httpx.AsyncClient() as http:
            assert (await http.get(f"{running.http}/absent.js")).status_code == 404

    run(ask())


def test_sessions_of_one_address_are_limited():
    async def talk():
        chosen = ServeSettings(max_per_address=2, drain_s=2.0)
        async with serving(settings=chosen) as running:
            async with talking(running), talking(running):
                assert await status(running) == 429
                assert running.number(
                    "llama_omni_connections_refused_total", reason="too_many_from_address"
                )
            while len(running.realtime._connections) == 2:
                await asyncio.sleep(0.01)
            assert await status(running) == 101

    run(talk())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("10.0.0.1", "10.0.0.2", False, id="two machines"),
        pytest.param("2001:db8::1", "2001:db8::2", True, id="one network of IPv6"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="two networks"),
        pytest.param("::ffff:10.0.0.1", "10.0.0.1", True, id="mapped"),
        pytest.param("::ffff:10.0.0.1", "::ffff:10.0.0.2", False, id="two mapped"),
        pytest.param(None, "", True, id="no address"),
        pytest.param("socket", "socket", True, id="no number"),
    ],
)
def test_who_counts_as_one_address(one, other, same):
    assert (neighbourhood(one) == neighbourhood(other)) is same


def test_callers_through_a_proxy_are_who_the_proxy_says():
    async def talk():
        async with serving(settings=ServeSettings(drain_s=2.0)) as running:
            assert await status(running, additional_headers={"x-forwarded-for": "10.0.0.9"}) == 403
        chosen = ServeSettings(keys=(KEY,), max_per_address=1, drain_s=2.0)
        async with serving(settings=chosen) as running:

            def caller(address):
                return {"x-forwarded-for": address, "authorization": f"Bearer {KEY}"}

            async with running.socket(additional_headers=caller("10.0.0.9")):
                assert await status(running, additional_headers=caller("10.0.0.9")) == 429
                assert await status(running, additional_headers=caller("10.0.0.8")) == 101

    run(talk())
