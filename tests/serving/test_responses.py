"""/v1/responses: kept, looked at, cancelled and forgotten."""

import json

import pytest
from support.observing import wait_until
from support.served import served

from flyweight.serving.options import ServeOptions

LONG = {"input": "Tell me a long story.", "max_output_tokens": 900, "stream": True}
KEYED = ServeOptions(port=0, api_key=("alice=alice-secret", "bob=bob-secret-1"))


def held_blocks(server):
    return next(iter(server.state.services.values())).metrics.held_blocks


class Stream:
    """The events of a response as they come."""

    def __init__(self, client, **body):
        self._context = client.stream("POST", "/v1/responses", json={**LONG, **body})

    def __enter__(self):
        lines = self._context.__enter__().iter_lines()
        self._events = (json.loads(line[6:]) for line in lines if line.startswith("data: "))
        return self

    def __exit__(self, *_):
        self._context.__exit__(None, None, None)

    def until(self, kind):
        return next(event for event in self._events if event["type"] == kind)

    def rest(self):
        return list(self._events)


@pytest.fixture(scope="module")
def endless():
    """Answers of a model that does not end by itself: the bias keeps its end away."""
    with served() as server:
        service = next(iter(server.state.services.values()))
        service.model.stop_ids = frozenset()
        yield server


def test_cancelling_frees_the_blocks_and_keeps_what_was_said(endless):
    with endless.client() as client, endless.client() as other:
        with Stream(client) as stream:
            name = stream.until("response.created")["response"]["id"]
            stream.until("response.output_text.delta")
            running = other.get(f"/v1/responses/{name}").json()
            assert (running["id"], running["status"]) == (name, "in_progress")
            assert held_blocks(endless) > 0
            cancelled = other.post(f"/v1/responses/{name}/cancel")
            assert cancelled.status_code == 200
            wait_until(lambda: held_blocks(endless) == 0)
            last = stream.rest()[-1]
        assert last["type"] == "response.incomplete"
        assert last["response"] == cancelled.json()
        found = cancelled.json()
        assert (found["id"], found["status"]) == (name, "cancelled")
        assert 0 < found["usage"]["output_tokens"] < 900
        assert found["output"][0]["content"][0]["text"]
        assert found["output"][0]["status"] == "incomplete"
        assert other.get(f"/v1/responses/{name}").json() == found
        assert other.post(f"/v1/responses/{name}/cancel").json() == found, "a second time changes nothing"
        assert other.delete(f"/v1/responses/{name}").json()["deleted"]
        assert other.get(f"/v1/responses/{name}").status_code == 404


def test_what_is_being_made_cannot_be_forgotten(endless):
    with endless.client() as client, endless.client() as other, Stream(client, store=False) as stream:
        name = stream.until("response.created")["response"]["id"]
        refused = other.delete(f"/v1/responses/{name}")
        assert refused.status_code == 409
        assert "cancel" in refused.json()["error"]["message"]
        assert other.post(f"/v1/responses/{name}/cancel").json()["status"] == "cancelled"
        assert stream.rest()[-1]["response"]["status"] == "cancelled"
        assert other.get(f"/v1/responses/{name}").status_code == 404, "it was not to be stored"


def test_a_client_that_leaves_takes_its_response_away(endless):
    with endless.client() as client, endless.client() as other:
        with Stream(client) as stream:
            name = stream.until("response.created")["response"]["id"]
        wait_until(lambda: held_blocks(endless) == 0)
        wait_until(lambda: not len(endless.state.running_responses))
        assert other.post(f"/v1/responses/{name}/cancel").status_code == 404


def test_what_has_ended_cannot_be_cancelled(client):
    found = client.post("/v1/responses", json={"input": "Hello", "max_output_tokens": 3}).json()
    refused = client.post(f"/v1/responses/{found['id']}/cancel")
    assert refused.status_code == 409
    assert found["status"] in refused.json()["error"]["message"]
    assert client.get(f"/v1/responses/{found['id']}").json() == found
    assert client.post("/v1/responses/resp-none/cancel").status_code == 404


def test_only_its_own_key_may_see_cancel_or_forget_a_response():
    with (
        served(options=KEYED) as server,
        server.client(authorization="Bearer alice-secret") as alice,
        server.client(authorization="Bearer bob-secret-1") as bob,
    ):
        with Stream(alice) as stream:
            name = stream.until("response.created")["response"]["id"]
            for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
                assert bob.request(method, f"/v1/responses/{name}{path}").status_code == 404
            stream.rest()
        assert bob.get(f"/v1/responses/{name}").status_code == 404
        assert bob.post(f"/v1/responses/{name}/cancel").status_code == 404
        assert alice.get(f"/v1/responses/{name}").status_code == 200
