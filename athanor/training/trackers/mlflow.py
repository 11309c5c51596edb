"""MLflow: `mlflow ui --backend-store-uri runs/mlflow`, or the server that MLFLOW_TRACKING_URI names."""

import os
import time
from pathlib import Path
from typing import Any

EXPERIMENT = "athanor"
MOST_LETTERS = 500  # of a parameter's value


class MLflow:
    """One run of the experiment `athanor`; a resumed run goes on in the same."""

    def __init__(self, folder: Path, run: str, settings: dict[str, Any]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves the machine unasked
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        folder.mkdir(parents=True, exist_ok=True)
        self.client, self.metric = MlflowClient(tracking_uri=uri), Metric
        known = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self.client.create_experiment(EXPERIMENT)
        found = self.client.search_runs([experiment], f"attributes.run_name = '{run}'")
        self.run = (found[0] if found else self.client.create_run(experiment, run_name=run)).info.run_id
        if not found:
            for name, value in settings.items():
                self.client.log_param(self.run, name, str(value)[:MOST_LETTERS])

    def log(self, step: int, figures: dict[str, float]) -> None:
        now = round(1000 * time.time())
        self.client.log_batch(self.run, [self.metric(name, value, now, step) for name, value in figures.items()])

    def text(self, step: int, name: str, text: str) -> None:
        self.client.log_text(self.run, text, f"{name}/{step:08d}.txt")

    def close(self) -> None:
        self.client.set_terminated(self.run)


def open_run(folder: Path, run: str, settings: dict[str, Any]) -> MLflow:
    """A run of the local database, or of the server the environment names."""
    return MLflow(folder, run, settings)
