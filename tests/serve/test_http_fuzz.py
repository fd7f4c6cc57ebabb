"""The HTTP side by its own description, fuzzed: schemathesis over `/openapi.json`."""

import schemathesis
from fake_engine import FakeEngine
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from turn_tools import LevelVad

from llama_omni.serve.app import create_app
from llama_omni.serve.serve_settings import ServeSettings

KEY = "sk-0123456789abcdef"

app = create_app(FakeEngine(), ServeSettings(keys=(KEY,)), make_vad=LevelVad)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
bounded = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@schema.parametrize()
@bounded
def test_every_answer_is_one_that_the_description_promises(case):
    response = case.call_and_validate(
        headers={"authorization": f"Bearer {KEY}"},
        excluded_checks=[positive_data_acceptance],  # `session` is described in docs/protocol.md
    )
    assert "Traceback" not in response.text


@schema.parametrize()
@bounded
def test_without_a_key_nothing_but_health_is_told(case):
    response = case.call()
    assert response.status_code < 500
    open_to_all = case.path in ("/healthz", "/readyz")
    allowed = (200, 405) if open_to_all else (401, 405)
    if "%0A" in case.formatted_path:  # no path of ours has a line's end in it
        allowed = (404,)
    assert response.status_code in allowed, (case.method, case.formatted_path, response.status_code)
