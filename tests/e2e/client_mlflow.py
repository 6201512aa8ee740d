"""What MLflow's users write, run in MLflow's own environment: `python client_mlflow.py URL INPUTS [KEY]`.

Without a key MLflow's own scoring client asks (it sends none); with one, its documentation's requests. Prints
{way: predictions}.
"""

import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

url, file, *key = sys.argv[1:]
x = np.array(json.loads(Path(file).read_text()))
frame = pd.DataFrame(x)
told = {}
if not key:
    client = ScoringServerClient(urlsplit(url).hostname, urlsplit(url).port)
    client.wait_server_ready()
    told["frame"] = client.invoke(frame).get_predictions("ndarray").tolist()
    told["array"] = client.invoke(x).get_predictions("ndarray").tolist()
    told["params"] = client.invoke(x, params={"predict_method": "predict_proba"}).get_predictions("ndarray").tolist()
else:
    headers = {"authorization": f"Bearer {key[0]}"}
    bodies = {
        "dataframe_split": frame.to_dict(orient="split"),
        "inputs": x.tolist(),
        "instances": x.tolist(),
    }
    for form, rows in bodies.items():
        answer = requests.post(url, json={form: rows}, headers=headers, timeout=30)
        answer.raise_for_status()
        told[form] = json.loads(PredictionsResponse.from_json(answer.text).to_json())["predictions"]
print(json.dumps(told))
