"""/v1/embeddings: vectors where the model is for it, a reason where it is not."""

import base64

import numpy as np
import pytest
from support.served import served

from flyweight import load
from flyweight.checkpoint.weights import Weights
from flyweight.demo_model import model_path
from flyweight.errors import CheckpointError
from flyweight.runtime.sequences import CachedSequence
from flyweight.serving.options import ServeOptions
from flyweight.serving.pooling import pooling_of


def test_a_model_that_is_not_for_it_refuses(client):
    answer = client.post("/v1/embeddings", json={"input": "A cat"})
    assert answer.status_code == 400
    assert "--embeddings" in answer.json()["error"]["message"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors(pooling):
    with served(options=ServeOptions(port=0, embeddings=pooling)) as server, server.client() as client:
        texts = ["A cat sat.", "A cat sat down.", "Two plus three is five."]
        found = client.post("/v1/embeddings", json={"input": texts}).json()
        vectors = np.array([one["embedding"] for one in found["data"]])
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
        coded = client.post("/v1/embeddings", json={"input": texts[0], "encoding_format": "base64"}).json()
        raw = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
        assert raw == pytest.approx(vectors[0], abs=2e-2)
        assert client.post("/v1/embeddings", json={"input": "hot " * 2000}).status_code == 400
        assert client.post("/v1/embeddings", json={"input": "x", "dimensions": 3}).status_code == 400
        service = next(iter(server.state.services.values()))
        assert service.metrics.held_blocks == 0


def test_states_are_what_the_head_reads():
    model = load(model_path(), compute="float32")
    ids = model.encode("A cat sat on the")
    states = model.states(model.open_planner().plan([CachedSequence()], [ids], all_logits=True))
    ((_, _, logits),) = model.score([ids])
    stored = Weights.open(model.checkpoint, model.spec)
    head = stored.head_format(model.spec).decode(stored.head(model.spec))
    assert states @ np.asarray(head, np.float32).T == pytest.approx(logits, abs=1e-3)


def test_pooling_by_the_files_of_the_model(tmp_path):
    assert pooling_of(tmp_path, "auto") is None
    assert pooling_of(tmp_path, "mean") == "mean"
    folder = tmp_path / "1_Pooling"
    folder.mkdir()
    (folder / "config.json").write_text('{"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": false}')
    assert pooling_of(tmp_path, "auto") == "last"
    assert pooling_of(tmp_path, "off") is None
    (folder / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(CheckpointError, match="another pooling"):
        pooling_of(tmp_path, "auto")
