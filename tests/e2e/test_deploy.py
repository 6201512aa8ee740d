"""The examples in docs/deploy do what they say: nginx with auth_request and mirror, systemd, Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import urllib3
import yaml

from conftest import ROOT
from running import ROUTES, Guard, add_key, free_port, listens, manifest, wait_for
from understudy.cli_guard import guard as command
from understudy.history import History

DEPLOY = ROOT / "docs" / "deploy"
ROUTE = ROUTES["open-inference"]
NGINX = """
worker_processes 1;
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/site.conf;
}}
"""


def inference(x: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP64", "data": x.ravel().tolist()}
    return {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}


@pytest.fixture
def front(tmp_path: Path, model_server: int, guarding: Callable[..., Guard]) -> Iterator[tuple[str, str, Path]]:
    """nginx as the example says, but for its ports: its address, a key, the guard's folder."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.fail("nginx is not installed; .ci/run installs it (apt-get install nginx-light)")
    limits = {"per_day": 5}
    tiers = [{"id": "t", "who": "w", "signals": {"label": {}}, "limits": limits}]
    path = manifest(tmp_path, model_server, tiers=tiers, guard={"hooks": True})
    key = add_key(path, "t", "--principal", "ann")
    guard, port = guarding(path), free_port()
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    places = {"127.0.0.1:8081": guard.url.partition("//")[2], "127.0.0.1:8080": f"127.0.0.1:{model_server}"}
    for example, here in {**places, "127.0.0.1:8000": f"127.0.0.1:{port}"}.items():
        assert text.count(example) == 1
        text = text.replace(example, here)
    (tmp_path / "site.conf").write_text(text, encoding="utf-8")
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path), encoding="utf-8")
    with (tmp_path / "nginx.log").open("wb") as log:
        process = subprocess.Popen([program, "-p", tmp_path, "-c", tmp_path / "nginx.conf"], stdout=log, stderr=log)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "nginx.log").read_text()
        yield f"http://127.0.0.1:{port}", key, tmp_path / "guard" / "digits"
    finally:
        process.terminate()
        process.wait(20)


def test_nginx_asks_for_leave_and_hands_over_a_copy(front: tuple[str, str, Path]) -> None:
    url, key, folder = front
    http, sent = urllib3.PoolManager(retries=False), list[Any]()

    def ask(given: str | None, route: str = ROUTE) -> urllib3.BaseHTTPResponse:
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {given}"} if given else {})}
        sent.append(np.random.default_rng(len(sent)).uniform(0, 1, (2, 64)))
        return http.request("POST", url + route, body=json.dumps(inference(sent[-1])), headers=headers, timeout=20)

    assert ask(None).status == 401
    assert ask("us_00000000_" + "A" * 43).status == 401
    for hidden in ("/-/admit", "/-/mirror", "/v2/models/other/infer"):
        assert ask(key, hidden).status == 404
    first = len(sent)
    for _ in range(5):
        answer = ask(key)
        assert answer.status == 200
        assert b"hidden" in answer.data  # as the page says: answers are not reduced here
    assert ask(key).status == 403
    history = History(folder / "history")
    wait_for(lambda: len(list(history.rows())) >= 5)
    rows = [kept.row for kept in history.rows()]
    assert [(row.principal, row.rule) for row in rows] == [("key:ann", "mirrored")] * 5
    asked = {x.tobytes() for x in sent[first : first + 5]}
    assert {row.inputs.tobytes() for row in rows if row.inputs is not None} == asked
    history.verify()


def parsed(arguments: list[str], tmp_path: Path) -> dict[str, Any]:
    """The options of `understudy guard ARGUMENTS`, with files that are there in the place of those named."""
    there = tmp_path / "there"
    there.write_text("")
    arguments = [str(there) if part.startswith("/etc/") else part for part in arguments]
    with command.make_context("guard", arguments) as context:
        assert isinstance(context, click.Context)
        return dict(context.params)


def test_the_systemd_unit_is_one(tmp_path: Path) -> None:
    unit = (DEPLOY / "understudy-guard.service").read_text(encoding="utf-8")
    line = re.search(r"^ExecStart=(.+)$", unit, flags=re.MULTILINE)
    assert line
    program, verb, *arguments = shlex.split(line[1])
    assert (program.rpartition("/")[2], verb) == ("understudy", "guard")
    assert parsed(arguments, tmp_path)["workers"] == 2
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        pytest.skip("systemd-analyze is not here")
    fake = tmp_path / "understudy"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    here = tmp_path / "understudy-guard.service"
    here.write_text(unit.replace(program, str(fake)), encoding="utf-8")
    done = subprocess.run([analyse, "verify", "--man=no", here], capture_output=True, text=True, check=False)
    said = [text for text in done.stderr.splitlines() if "understudy" in text]
    assert not said, said


def test_the_kubernetes_set_holds_together(tmp_path: Path) -> None:
    (whole,) = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert (whole["apiVersion"], whole["kind"]) == ("apps/v1", "StatefulSet")
    spec = whole["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    pod = spec["template"]["spec"]
    volumes = {v["name"] for v in pod["volumes"]} | {v["metadata"]["name"] for v in spec["volumeClaimTemplates"]}
    (guard,) = [c for c in pod["containers"] if c["name"] == "guard"]
    mounts = {m["name"]: m for m in guard["volumeMounts"]}
    assert mounts.keys() <= volumes
    verb, *arguments = guard["args"]
    assert verb == "guard"
    options = parsed(arguments, tmp_path)
    assert options["listen"].rpartition(":")[2] == str(guard["ports"][0]["containerPort"])
    assert arguments[0].startswith(mounts["manifest"]["mountPath"] + "/")
    assert {e["name"] for e in guard["env"]} == {"UNDERSTUDY_STATE", "UNDERSTUDY_ADMIN_KEY"}
    ports = {port["name"] for port in guard["ports"]}
    for probe in ("readinessProbe", "livenessProbe"):
        get = guard[probe]["httpGet"]
        assert get["port"] in ports
        assert get["path"] in ("/readyz", "/healthz")
        assert (get.get("scheme") == "HTTPS") == (options["tls_cert"] is not None)
