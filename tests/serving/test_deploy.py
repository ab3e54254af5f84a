"""The files in deploy/ agree with the program, with each other and, where their tools are installed, with these."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flyweight.cli import app
from flyweight.serving.options import ServeOptions

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KNOWN_INSTRUCTIONS = {
    "FROM",
    "RUN",
    "WORKDIR",
    "COPY",
    "ENV",
    "USER",
    "VOLUME",
    "EXPOSE",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def unit():
    lines = [line for line in (DEPLOY / "flyweight.service").read_text().splitlines() if "=" in line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def arguments_of(tokens):
    """What the command line makes of them; files that lie elsewhere are replaced by ours."""
    here = {"/etc/flyweight/serve.yaml": str(DEPLOY / "serve.yaml")}
    tokens = [here.get(token, token) for token in tokens]
    place = tokens.index("--api-key-file")
    _, bound, _ = app.parse_args([*tokens[:place], *tokens[place + 2 :]], exit_on_error=False, print_error=False)
    return bound.arguments


def test_the_unit_starts_the_server_and_gives_it_time_to_drain():
    command = shlex.split(unit()["ExecStart"])
    found = arguments_of(command[1:])
    assert found["models"] == ("chat=/srv/models/chat",)
    assert found["options"].host == "0.0.0.0"
    assert found["limits"].requests_per_key == 32
    assert int(unit()["TimeoutStopSec"]) > found["options"].drain_seconds
    assert "api-keys" in unit()["LoadCredential"]


def test_compose_starts_the_server_and_gives_it_time_to_drain():
    services = read("compose.yaml")["services"]
    found = arguments_of(["serve", *services["flyweight"]["command"]])
    assert found["models"] == ("demo",)
    assert found["options"].log_format == "json"
    assert int(services["flyweight"]["stop_grace_period"].removesuffix("s")) > found["options"].drain_seconds
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "open to the network"


def test_compose_mounts_files_that_exist():
    compose = read("compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] if not source.startswith(".") else (DEPLOY / source).is_file(), source
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines(), "secrets would be committed"


def test_prometheus_scrapes_the_server_under_the_name_that_the_rules_use():
    config, compose = read("prometheus.yml"), read("compose.yaml")
    (job,) = config["scrape_configs"]
    assert f'job="{job["job_name"]}"' in (ROOT / "docs" / "operations" / "prometheus-rules.yml").read_text()
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in compose["services"]
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    mounted = [volume.split(":")[1] for volume in compose["services"]["prometheus"]["volumes"]]
    assert all(f"/etc/prometheus/{name}" in mounted for name in config["rule_files"])
    assert Path(job["authorization"]["credentials_file"]).name in compose["services"]["prometheus"]["secrets"]


def test_the_image_is_built_from_what_its_context_holds():
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)
    instructions = re.findall(r"^([A-Z]+) ", text, re.MULTILINE)
    assert instructions[0] == "FROM"
    assert set(instructions) <= KNOWN_INSTRUCTIONS
    assert instructions.index("USER") < instructions.index("ENTRYPOINT"), "it would run as root"
    assert all("latest" not in line for line in re.findall(r"^FROM .*$", text, re.MULTILINE))


def test_variables_of_the_image_are_options_of_the_server():
    for name in re.findall(r"FLYWEIGHT_SERVE_(\w+)=", (DEPLOY / "Dockerfile").read_text()):
        assert hasattr(ServeOptions(), name.lower())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    text = (DEPLOY / "flyweight.service").read_text().replace("/opt/flyweight/bin/flyweight", "/bin/true")
    path = tmp_path / "flyweight.service"
    path.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "flyweight.service" in line]
    assert not complaints, "\n".join(complaints)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_prometheus_accepts_its_configuration(tmp_path):
    shutil.copy(ROOT / "docs" / "operations" / "prometheus-rules.yml", tmp_path)
    (tmp_path / "key").write_text("x")
    text = (DEPLOY / "prometheus.yml").read_text().replace("/run/secrets/prometheus-key", str(tmp_path / "key"))
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
