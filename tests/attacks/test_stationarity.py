"""Hyper-parameters of scikit-learn's models: solved through a metered target, or explained (Wang and Gong 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

import understudy as us
from understudy.stationarity import Hyperparameters
from understudy.targets.sklearn import SklearnTarget

DIABETES, CANCER, WINE = (load(return_X_y=True) for load in (load_diabetes, load_breast_cancer, load_wine))


def stolen(model: Any, data: tuple[Any, Any], signal: str, budget: int = 200, **options: Any) -> Any:
    """What an attacker with the training set learns from a metered target: (notes, parameters, spent)."""
    inputs, truth = data
    box = us.Box(inputs.min(0) - 1e-3, inputs.max(0) + 1e-3)
    target = SklearnTarget.of(model.fit(inputs, truth), box, [signal])
    found = us.extract(target, "stationarity", budget, 0, inputs, truth)
    assert found.verdict is us.Verdict.EXACT
    return found.notes["hyperparameters"], found.parameters, found.spent


def told(model: Any, data: tuple[Any, Any], **options: Any) -> Hyperparameters:
    """What the parameters themselves tell."""
    inputs, truth = data
    model.fit(inputs, truth)
    made = SklearnTarget.of(model, us.Box(-np.inf, np.inf, inputs.shape[1:])).parameters
    assert made is not None
    return us.hyperparameters(made, inputs, truth, **options)


def standard(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_ridge_to_ten_digits(alpha: float) -> None:
    solved, parameters, spent = stolen(Ridge(alpha), DIABETES, "value")
    assert solved["objective"] == "ridge"
    assert parameters["alpha"] == pytest.approx(alpha, rel=1e-10)
    assert spent <= 10 + 1 + 11
    assert "scaling 'standard' explains it about as well" in solved["reason"]  # these columns are equally wide


@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0])
def test_lasso_to_seven_digits_however_loose_its_tolerance(alpha: float) -> None:
    solved, parameters, _ = stolen(Lasso(alpha), DIABETES, "value")
    assert solved["objective"] == "lasso"
    assert parameters["alpha"] == pytest.approx(alpha, rel=1e-7)


@pytest.mark.parametrize("solver", ["newton-cholesky", "lbfgs"])
@pytest.mark.parametrize("data", [CANCER, WINE])
def test_converged_logistic_regression_to_six_digits_behind_a_scaler(data: Any, solver: Any) -> None:
    model = standard(LogisticRegression(C=0.3, tol=1e-10, solver=solver, max_iter=10_000))
    solved, parameters, _ = stolen(model, data, "probabilities")
    assert (solved["objective"], solved["scaling"]) == ("logistic-l2", "standard")
    assert parameters["C"] == pytest.approx(0.3, rel=1e-6)
    assert solved["intercept"] == "free"


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_squared_hinge_to_six_digits(C: float) -> None:
    model = standard(LinearSVC(C=C, tol=1e-12, dual=False, max_iter=10**6))
    solved, parameters, _ = stolen(model, CANCER, "logits")
    assert solved["objective"] == "squared-hinge"
    assert parameters["C"] == pytest.approx(C, rel=1e-6)
    assert solved["intercept"] == "penalised"


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_hinge_whatever_the_tolerance(C: float) -> None:
    solved, parameters, _ = stolen(standard(SVC(kernel="linear", C=C)), CANCER, "logits")
    assert solved["objective"] == "hinge"
    assert parameters["C"] == pytest.approx(C, rel=1e-6)


def test_hinge_on_separable_data_says_which_C_give_the_same_model() -> None:
    inputs, truth = load_iris(return_X_y=True)
    inputs, truth = inputs[truth < 2], truth[truth < 2]
    solved = told(SVC(kernel="linear", C=100.0), (inputs, truth))
    assert not solved.identified
    assert "no row is within the margin" in solved.reason
    assert solved.low["C"] < 100 < solved.high["C"] == np.inf
    again = SVC(kernel="linear", C=2 * solved.low["C"], tol=1e-10).fit(inputs, truth)
    assert np.allclose(again.coef_, SVC(kernel="linear", C=100.0, tol=1e-10).fit(inputs, truth).coef_, rtol=1e-6)
    below = SVC(kernel="linear", C=0.9 * solved.low["C"], tol=1e-10).fit(inputs, truth)
    assert not np.allclose(below.coef_, again.coef_, rtol=1e-3)


def test_elastic_nets() -> None:
    solved = told(ElasticNet(0.01, l1_ratio=0.3, tol=1e-12, max_iter=10**5), DIABETES)
    assert solved.objective == "elastic-net"
    assert solved.values == pytest.approx({"alpha": 0.01, "l1_ratio": 0.3}, rel=1e-9)
    model = LogisticRegression(C=0.5, l1_ratio=0.4, solver="saga", tol=1e-9, max_iter=10**5)
    solved = told(make_pipeline(MinMaxScaler(), model), WINE)
    assert (solved.objective, solved.scaling) == ("logistic-elastic-net", "min-max")
    assert solved.values == pytest.approx({"C": 0.5, "l1_ratio": 0.4}, rel=1e-5)


def test_logistic_regression_with_an_L1_penalty() -> None:
    model = LogisticRegression(C=3.0, l1_ratio=1.0, solver="saga", tol=1e-10, max_iter=10**5)
    solved = told(make_pipeline(MinMaxScaler(), model), WINE)
    assert solved.objective == "logistic-l1"
    assert solved.values["C"] == pytest.approx(3.0, rel=1e-6)


def test_kernel_ridge() -> None:
    inputs, truth = DIABETES

    def kernel(a: Any, b: Any) -> Any:
        return rbf_kernel(a, b, 0.5)

    model = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.5).fit(inputs, truth)
    solved = us.hyperparameters({"dual": model.dual_coef_}, inputs, truth, kernel=kernel)
    assert solved.identified
    assert solved.values["alpha"] == pytest.approx(0.1, rel=1e-10)
    wrong = us.hyperparameters({"dual": model.dual_coef_}, inputs, truth, kernel=lambda a, b: rbf_kernel(a, b, 0.8))
    assert not wrong.identified


@pytest.mark.parametrize(("alpha", "gamma"), [(0.1, 2.0), (1.0, 20.0)])
def test_kernel_ridge_through_its_answers(alpha: float, gamma: float) -> None:
    inputs, truth = DIABETES
    model = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma).fit(inputs, truth)
    box = us.Box(inputs.min(0) - 0.05, inputs.max(0) + 0.05)
    target = us.target(model.predict, signal="value", outputs=1, space=box)
    found = us.extract(target, "stationarity", 600, 0, inputs, truth)
    assert found.verdict is us.Verdict.EXACT
    assert found.spent <= len(inputs) + 60
    assert found.parameters["alpha"] == pytest.approx(alpha, rel=1e-6)
    assert found.parameters["gamma"] == pytest.approx(gamma, rel=1e-6)
    x = box.sample(2000, np.random.default_rng(3))
    np.testing.assert_allclose(found.substitute.query(x)["value"][:, 0], model.predict(x), atol=1e-3)


def test_a_model_that_is_no_kernel_ridge_stays_refused() -> None:
    inputs, truth = DIABETES
    target = us.target(lambda x: np.abs(x).sum(1), signal="value", outputs=1, space=us.Box(-1, 1, (10,)))
    found = us.extract(target, "stationarity", 600, 0, inputs, truth)
    assert (found.verdict, found.substitute) == (us.Verdict.NOT_OF_FAMILY, None)


def test_training_that_stopped_early_is_recognised_and_its_interval_holds_the_truth() -> None:
    for C in (0.01, 0.1, 1.0, 10.0):
        solved = told(standard(LogisticRegression(C=C)), CANCER)
        assert "had not converged" in solved.reason
        assert solved.low["C"] <= C <= solved.high["C"]
        assert solved.values["C"] == pytest.approx(C, rel=0.02)


def test_the_condition_number_foretells_what_an_error_of_the_weights_does() -> None:
    inputs, truth = DIABETES
    model, rng = Ridge(0.01).fit(inputs, truth), np.random.default_rng(0)
    exact = us.hyperparameters({"weights": model.coef_, "bias": model.intercept_}, inputs, truth, "ridge", "none")
    errors = []
    for _ in range(200):
        noise = rng.standard_normal(10)
        weights = model.coef_ + 1e-7 * np.linalg.norm(model.coef_) * noise / np.linalg.norm(noise)
        moved = us.hyperparameters({"weights": weights, "bias": model.intercept_}, inputs, truth, "ridge", "none")
        errors.append(abs(moved.values["alpha"] / exact.values["alpha"] - 1) / 1e-7)
    assert max(errors) <= 1.01 * exact.condition["alpha"]
    assert max(errors) >= 0.3 * exact.condition["alpha"]


def test_what_no_penalty_explains_is_not_explained() -> None:
    inputs, truth = CANCER
    weights = np.random.default_rng(0).standard_normal((1, 30))
    solved = us.hyperparameters({"weights": weights, "bias": [0.0]}, inputs, truth)
    assert not solved.values
    assert "explains these weights" in solved.reason
    model = LinearRegression().fit(*DIABETES)
    solved = us.hyperparameters({"weights": model.coef_, "bias": model.intercept_}, *DIABETES)
    assert not solved.values or solved.values["alpha"] < 1e-6


def test_all_zero_weights_give_a_bound() -> None:
    solved = told(Lasso(100.0), DIABETES)
    assert not solved.values
    bound = np.abs((DIABETES[0] - DIABETES[0].mean(0)).T @ (DIABETES[1] - DIABETES[1].mean())).max() / len(DIABETES[1])
    assert f"{bound:.6g}" in solved.reason


def test_without_the_training_set_the_notes_say_what_is_missing() -> None:
    model = Ridge(1.0).fit(*DIABETES)
    found = us.extract(us.target(model.predict, "value", 1, us.Box(-1, 1, shape=(10,))), "stationarity", 100)
    assert found.verdict is us.Verdict.EXACT
    assert "training set" in found.notes["hyperparameters"]["reason"]


def test_arguments_that_do_not_fit_are_refused() -> None:
    one = {"weights": np.ones((1, 10)), "bias": np.zeros(1)}
    with pytest.raises(us.UnderstudyError, match="no objective is called 'rigde'"):
        us.hyperparameters(one, *DIABETES, "rigde")
    with pytest.raises(us.UnderstudyError, match="442 rows of training data and 3 truths"):
        us.hyperparameters(one, DIABETES[0], [1, 2, 3])
    with pytest.raises(us.UnderstudyError, match="weights for 10 columns, and data of 30"):
        us.hyperparameters(one, *CANCER)
    with pytest.raises(us.UnderstudyError, match="kernel"):
        us.hyperparameters(one, *DIABETES, "kernel-ridge")


def test_an_audit_reports_them(tmp_path: Path) -> None:
    inputs, truth = DIABETES
    np.savez(tmp_path / "data.npz", inputs=inputs, truth=truth)
    (tmp_path / "served_ridge.py").write_text(
        "import numpy as np\nfrom sklearn.linear_model import Ridge\n"
        "held = np.load(__file__.replace('served_ridge.py', 'data.npz'))\n"
        "served = Ridge(0.25).fit(held['inputs'], held['truth']).predict\n",
        encoding="utf-8",
    )
    manifest = yaml.safe_load((Path(__file__).parents[2] / "examples/demo/risk_score.yaml").read_text(encoding="utf-8"))
    manifest["model"] = {"version": "1"}
    manifest["metadata"] |= {"kind": "regression"}
    manifest["target"] = {"python": "served_ridge:served", "signals": {"value": {}}, "outputs": 1}
    manifest["space"] = {"low": -1, "high": 1, "shape": [10]}
    manifest["pool"] = {"data": "data.npz", "provenance": "the training set", "labelled": True}
    manifest["evaluation"] = {"data": "data.npz"}
    manifest["goals"] = [{"id": "copy", "metric": "regression-error", "threshold": 0.1, "basis": "an example"}]
    manifest["tiers"] = [{**manifest["tiers"][2], "signals": {"value": {}}}]
    manifest["audit"] = {"attacks": ["stationarity"], "seeds": 3, "seed": 1}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    (finding,) = us.run_audit(tmp_path / "manifest.yaml", tmp_path / "run").findings
    for seed in finding.seeds:
        assert seed.notes["hyperparameters"]["values"]["alpha"] == pytest.approx(0.25, rel=1e-10)


def test_what_answers_zero_at_every_training_row_is_no_kernel_machine() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    target = us.target(lambda x: np.maximum(np.abs(x[:, :1]) - 1.5, 0), "value", 1, us.Box(-20, 20, (2,)))
    found = us.extract(target, "stationarity", 300, 0, rows, rows[:, 0] ** 2)
    assert (found.verdict, found.substitute) == (us.Verdict.NOT_OF_FAMILY, None)
