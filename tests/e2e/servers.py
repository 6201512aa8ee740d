"""Real model servers in environments of their own, started for a test and stopped after it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVS = Path(os.environ.get("UNDERSTUDY_TEST_ENVS", ROOT / ".bench" / "envs"))
NAME = "demo"  # of the model, wherever a server wants one
PACKAGES = {
    "mlserver": ["mlserver==1.7.1", "mlserver-sklearn==1.7.1", "scikit-learn"],
    "mlflow": ["mlflow>=3.17,<4", "scikit-learn"],
    "py3langid": ["py3langid==0.4.0"],
}


def environment(name: str) -> Path:
    """The bin folder of a server's environment, made when it is not there yet (minutes, once)."""
    folder = ENVS / name
    if not (folder / "done").exists() and "UNDERSTUDY_TEST_ENVS" not in os.environ:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PACKAGES[name]], check=True, timeout=1500)
        (folder / "done").touch()
    return folder / "bin"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def running(command: Sequence[object], ready: str, cwd: Path, path: Path) -> Iterator[None]:
    """A server process, from when `ready` answers until the block ends. Its output goes to a file for a failure."""
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, stdout=log, stderr=log, env=env)
        try:
            for _ in range(240):
                if process.poll() is not None:
                    raise AssertionError("the server ended: " + (cwd / "server.log").read_text()[-2000:])
                try:
                    with urllib.request.urlopen(ready, timeout=2) as answer:
                        if answer.status == 200:
                            break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            else:
                raise AssertionError("the server was not ready in time: " + (cwd / "server.log").read_text()[-2000:])
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


_TRAIN = """
import numpy, joblib
from sklearn.datasets import load_{data} as load
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
inputs, truth = load(return_X_y=True)
rows = numpy.random.default_rng(0).permutation(len(inputs))[: len(inputs) // 2]
model = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000)).fit(inputs[rows], truth[rows])
"""


@contextmanager
def mlserver(folder: Path, data: str = "breast_cancer") -> Iterator[str]:
    """A demo's model of a data set behind MLServer: its inference route."""
    path, port = environment("mlserver"), free_port()
    train = _TRAIN.format(data=data) + "joblib.dump(model, 'model.joblib')\n"
    subprocess.run([path / "python", "-c", train], check=True, cwd=folder, timeout=120)
    model = {"name": NAME, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    settings = {"parallel_workers": 0, "http_port": port, "grpc_port": free_port(), "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps({**settings, "metrics_port": free_port()}))
    base = f"http://127.0.0.1:{port}/v2/models/{NAME}"
    with running([path / "mlserver", "start", "."], f"{base}/ready", folder, path):
        yield f"{base}/infer"


@contextmanager
def mlflow(folder: Path, data: str = "breast_cancer") -> Iterator[str]:
    """A demo's model of a data set behind the MLflow model server: its invocation route."""
    path, port = environment("mlflow"), free_port()
    save = (
        _TRAIN.format(data=data)
        + "import mlflow.sklearn\nmlflow.sklearn.save_model(model, 'saved', pyfunc_predict_fn='predict_proba',"
        + " serialization_format='cloudpickle')\n"
    )
    subprocess.run([path / "python", "-c", save], check=True, cwd=folder, timeout=240)
    command = [path / "mlflow", "models", "serve", "-m", "saved", "--env-manager", "local", "-h", "127.0.0.1"]
    with running([*command, "-p", port], f"http://127.0.0.1:{port}/ping", folder, path):
        yield f"http://127.0.0.1:{port}/invocations"
