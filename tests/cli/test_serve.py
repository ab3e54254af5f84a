"""``flyweight serve``: where options come from, and what models are called."""

import threading

import pytest

from flyweight import kernels
from flyweight.cli import app, main
from flyweight.cli.serve import name_models
from flyweight.demo_model import model_path
from flyweight.errors import UsageError


def options_of(*words):
    _, bound, _ = app.parse_args(["serve", "demo", *words], exit_on_error=False, print_error=False)
    return bound.arguments["options"], bound.arguments["limits"]


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    path = tmp_path / "serve.yaml"
    path.write_text("port: 1001\nhost: 0.0.0.0\nqueue-seconds: 7\napi-key: [first-secret, second-secret]\n")
    options, limits = options_of("--config", str(path))
    assert (options.port, options.host, limits.queue_seconds) == (1001, "0.0.0.0", 7)
    assert options.api_key == ("first-secret", "second-secret")
    monkeypatch.setenv("FLYWEIGHT_SERVE_PORT", "1002")
    monkeypatch.setenv("FLYWEIGHT_SERVE_BODY_BYTES", "99")
    options, limits = options_of("--config", str(path))
    assert (options.port, limits.body_bytes) == (1002, 99)
    assert options_of("--config", str(path), "--port", "1003")[0].port == 1003


@pytest.mark.parametrize(
    ("text", "message"), [("prt: 1", "prt"), ("- 1", "one line for each option"), ("a: [", "not YAML")]
)
def test_a_bad_file_is_refused(tmp_path, capsys, text, message):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    assert main(["serve", "demo", "--config", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_bad_options_are_refused(capsys):
    assert main(["serve", "demo", "--port", "70000"]) == 2
    assert "port=70000 is out of range" in capsys.readouterr().err
    assert main(["serve", "demo", "--queue-seconds", "0"]) == 2
    assert "queue_seconds=0" in capsys.readouterr().err


def test_names_of_models():
    demo = str(model_path())
    assert name_models(("demo",)) == {"demo": demo}
    assert name_models((demo, "big=org/model", "org/other")) == {
        "demo_model": demo,
        "big": "org/model",
        "org/other": "org/other",
    }
    with pytest.raises(UsageError, match="two models would be served as 'demo'"):
        name_models(("demo", "demo=./x"))
    with pytest.raises(UsageError, match="name a model"):
        name_models(())


def test_the_server_shares_one_heap_before_it_starts_a_thread(monkeypatch):
    def load(*_arguments, **_options):
        happened.append("load")
        raise UsageError("no further")

    happened = []
    monkeypatch.setattr(kernels, "share_one_heap", lambda: happened.append(threading.active_count()))
    monkeypatch.setattr("flyweight.cli.serve.ModelLoader.load", load)
    before = threading.active_count()
    assert main(["serve", "demo"]) == 2
    assert happened == [before, "load"]
