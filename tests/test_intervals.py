"""Intervals: exact statistics on the data, exact reweighting, and coverage of a known truth with few clusters."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn import metrics as sk

from chromacc_lib import intervals as iv


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    """Return 240 rows in 4 cell types and 6 blocks, with ties in x."""
    rng = np.random.default_rng(7)
    x = np.round(rng.normal(size=240), 1)
    return {
        "cell": np.repeat(list("abcd"), 60), "block": np.tile(np.arange(6), 40), "x": x,
        "y": x + rng.normal(size=240), "label": (x + rng.normal(size=240) > 0.3).astype(int),
    }


def _repeat(rows: dict[str, np.ndarray], weights: np.ndarray, name: str) -> np.ndarray:
    return np.repeat(rows[name], weights.astype(int))


def test_first_weighting_is_the_data_itself(rows):
    plan = iv.resampling(rows["cell"], rows["block"], 20, seed=1)
    assert iv.mse(plan, rows["y"], rows["x"])[0] == pytest.approx(sk.mean_squared_error(rows["y"], rows["x"]))
    assert iv.pearson(plan, rows["x"], rows["y"])[0] == pytest.approx(stats.pearsonr(rows["x"], rows["y"])[0])
    assert iv.spearman(plan, rows["x"], rows["y"])[0] == pytest.approx(stats.spearmanr(rows["x"], rows["y"])[0])
    assert iv.standard_deviation(plan, rows["y"])[0] == pytest.approx(np.std(rows["y"]))


@pytest.mark.parametrize("r", [0, 1, 2, 21, 25])  # the data, two draws, a cell type left out, a block left out
def test_every_weighting_equals_repeating_the_rows(rows, r):
    plan = iv.resampling(rows["cell"], rows["block"], 20, seed=1)
    weights = plan.weights(r)
    x, y, label = (_repeat(rows, weights, name) for name in ("x", "y", "label"))
    roc_auc, pr_auc = iv.ranking(plan, rows["label"], rows["x"])
    assert roc_auc[r] == pytest.approx(sk.roc_auc_score(label, x))
    assert pr_auc[r] == pytest.approx(sk.average_precision_score(label, x))
    assert iv.mse(plan, rows["y"], rows["x"])[r] == pytest.approx(sk.mean_squared_error(y, x))
    assert iv.pearson(plan, rows["x"], rows["y"])[r] == pytest.approx(np.corrcoef(x, y)[0, 1])
    called = iv.classification(plan, rows["label"], rows["x"] > 0.3)
    expected = {
        "accuracy": sk.accuracy_score(label, x > 0.3), "precision": sk.precision_score(label, x > 0.3),
        "recall": sk.recall_score(label, x > 0.3), "f1": sk.f1_score(label, x > 0.3), "base_rate": label.mean(),
    }
    assert {name: values[r] for name, values in called.items()} == pytest.approx(expected)


def test_leaving_one_out_leaves_exactly_that_cluster_out(rows):
    plan = iv.resampling(rows["cell"], rows["block"], 5, seed=1)
    for c, name in enumerate("abcd"):
        assert np.array_equal(plan.weights(1 + 5 + c), (rows["cell"] != name).astype(float))
    for b in range(6):
        assert np.array_equal(plan.weights(1 + 5 + 4 + b), (rows["block"] != b).astype(float))
    assert len(plan) == 1 + 5 + 4 + 6


def test_ranking_with_grouped_thresholds_is_exact_on_the_data_and_close_elsewhere(monkeypatch):
    rng = np.random.default_rng(3)
    score, cell, block = rng.normal(size=3000), rng.integers(0, 3, 3000), rng.integers(0, 5, 3000)
    label = (score + rng.normal(size=3000) > 0.8).astype(int)
    plan = iv.resampling(cell, block, 30, seed=1)
    grouped = iv.ranking(plan, label, score)
    monkeypatch.setattr(iv, "MAX_GROUPS", 10_000)
    exact = iv.ranking(plan, label, score)
    for a, b in zip(grouped, exact, strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-12)
        assert np.abs(a - b).max() < 1e-3
        assert np.std(b) > 3e-3  # so the difference allowed above is small against the spread


def test_same_seed_same_draws_and_another_seed_others(rows):
    first, again, other = (iv.resampling(rows["cell"], rows["block"], 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.cell_weights, again.cell_weights)
    assert not np.array_equal(first.block_weights, other.block_weights)


def test_one_cell_type_resamples_blocks_only(rows):
    plan = iv.resampling(np.zeros(240), rows["block"], 200, seed=1)
    assert (plan.cell_weights[:201] == 1).all()
    result = iv.interval(iv.pearson(plan, rows["x"], rows["y"]), plan)
    assert result["low"] < result["value"] < result["high"]


def test_one_cell_type_in_one_block_has_no_interval(rows):
    plan = iv.resampling(np.zeros(240), np.zeros(240), 50, seed=1)
    result = iv.interval(iv.pearson(plan, rows["x"], rows["y"]), plan)
    assert np.isfinite(result["value"]) and np.isnan(result["low"]) and np.isnan(result["high"])


def test_interval_is_never_narrower_than_the_jackknife_t():
    """Three cell types in one block whose means are 1, 2, 3: the jackknife of a mean is the plain t-interval."""
    plan = iv.resampling(np.repeat([0, 1, 2], 10), np.zeros(30), 500, seed=1)
    error = np.sqrt(np.repeat([1.0, 2.0, 3.0], 10))
    result = iv.interval(iv.mse(plan, error, np.zeros(30)), plan)
    half = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    assert (result["low"], result["high"]) == pytest.approx((2 - half, 2 + half))


def test_p_agrees_with_the_interval_and_is_uniform_where_there_is_no_effect(rows):
    plan = iv.resampling(rows["cell"], rows["block"], 200, seed=1)
    rng, p = np.random.default_rng(3), []
    for _ in range(300):
        cell, block = rng.normal(size=4), rng.normal(size=6)
        values = cell[plan.cell] + block[plan.block] + rng.normal(size=240)
        effect = iv.mean(plan, values)
        p.append(iv.p_value(effect, plan))
        limits = iv.interval(effect, plan)
        if abs(p[-1] - 0.05) > 0.01:  # at the limit itself a bootstrap's percentile is no count of draws
            assert (p[-1] < 0.05) == (limits["low"] > 0 or limits["high"] < 0)
    assert np.mean(np.array(p) < 0.05) < 0.08  # never far above what it promises
    assert iv.p_value(iv.mean(plan, rng.normal(9, 1, 240)), plan) == pytest.approx(2 / 201)
    assert iv.p_value(np.zeros(len(plan)), plan) == 1 and np.isnan(iv.p_value(np.full(len(plan), np.nan), plan))


def test_bounds_cut_the_interval():
    plan = iv.resampling(np.repeat([0, 1, 2], 10), np.zeros(30), 500, seed=1)
    error = np.sqrt(np.repeat([1.0, 2.0, 3.0], 10))
    result = iv.interval(iv.mse(plan, error, np.zeros(30)), plan, iv.Scale(0, 4))
    assert (result["low"], result["high"]) == (0, 4)


def test_skill_interval_is_that_of_the_log_ratio_turned_back():
    """Losses 1, 2, 3 in three cell types against 4: a t-interval of the log of the ratio, by its jackknife."""
    plan = iv.resampling(np.repeat([0, 1, 2], 10), np.zeros(30), 500, seed=1)
    predicted, reference = np.sqrt(np.repeat([1.0, 2.0, 3.0], 10)), np.full(30, 2.0)
    values = iv.skill(plan, np.zeros(30), predicted, reference)
    left_out = np.log(np.array([2.5, 2.0, 1.5]) / 4)  # mean loss without each cell type
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * np.sum((left_out - left_out.mean()) ** 2))
    result = iv.skill_interval(values, plan)
    limits = 1 - np.exp(np.log(0.5) + np.array([half, -half]))
    assert (result["value"], result["low"], result["high"]) == pytest.approx((0.5, *limits))


def test_skill_of_a_perfect_and_of_the_same_prediction(rows):
    plan = iv.resampling(rows["cell"], rows["block"], 50, seed=1)
    perfect = iv.skill_interval(iv.skill(plan, rows["y"], rows["y"], rows["x"]), plan)
    assert perfect == {"value": 1.0, "low": 1.0, "high": 1.0}
    same = iv.skill_interval(iv.skill(plan, rows["y"], rows["x"], rows["x"]), plan)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_constant_values_have_no_correlation_and_half_an_auroc(rows):
    plan = iv.resampling(rows["cell"], rows["block"], 20, seed=1)
    constant = np.full(240, 0.1)
    assert np.isnan(iv.pearson(plan, constant, rows["y"])).all()
    assert iv.ranking(plan, rows["label"], constant)[0] == pytest.approx(np.full(len(plan), 0.5))
    assert iv.standard_deviation(plan, constant)[0] == 0


@pytest.mark.parametrize("scale, values", [
    (iv.POSITIVE, [0.001, 1.0, 50.0]), (iv.CORRELATION, [-0.9, 0.0, 0.999]), (iv.SHARE, [0.01, 0.5, 0.98]),
    (iv.SKILL, [-3.0, 0.0, 0.9]), (iv.REAL, [-5.0, 0.0, 5.0]),
])
def test_scales_turn_back_what_they_moved_and_keep_to_their_range(scale, values):
    moved = scale.forth(np.array(values), 100)
    assert scale.back(moved) == pytest.approx(values) and (np.diff(moved) > 0).all()
    assert scale.low <= scale.back(np.float64(-700)) and scale.back(np.float64(700)) <= scale.high
    assert np.isfinite(scale.forth(np.array([scale.low, scale.high]), 100)[np.isfinite([scale.low, scale.high])]).all()


def test_the_interval_of_a_share_is_that_of_its_logit_turned_back():
    """Shares 0.5, 0.8 and 0.9 in three cell types: a t-interval of the logit, by its jackknife."""
    plan = iv.resampling(np.repeat([0, 1, 2], 10), np.zeros(30), 500, seed=1)
    held = np.concatenate([np.arange(10) < n for n in (5, 8, 9)]).astype(float)
    result = iv.interval(iv.mean(plan, held), plan, iv.SHARE)
    left_out = logit(np.array([17, 14, 13]) / 20)
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * np.sum((left_out - left_out.mean()) ** 2))
    limits = expit(logit(22 / 30) + np.array([-half, half]))
    assert (result["value"], result["low"], result["high"]) == pytest.approx((22 / 30, *limits))


def test_no_interval_reaches_the_end_of_its_range_where_cell_types_disagree(rows):
    """An error of 0.3, 0.4 and 1.5 times the signal: a symmetric interval would promise errors below 0."""
    rng = np.random.default_rng(2)
    cell, block = np.repeat([0, 1, 2], 100), np.tile(np.arange(10), 30)
    measured = rng.normal(size=300)
    predicted = measured + np.repeat([0.3, 0.4, 1.5], 100) * rng.normal(size=300)
    plan, label = iv.resampling(cell, block, 200, seed=1), (measured > 0.5).astype(int)
    for values, scale in ((iv.mse(plan, measured, predicted), iv.POSITIVE),
                          (iv.pearson(plan, measured, predicted), iv.CORRELATION),
                          (iv.ranking(plan, label, predicted)[1], iv.SHARE)):
        moved, plain = iv.interval(values, plan, scale), iv.interval(values, plan)
        assert plain["low"] < scale.low or plain["high"] > scale.high
        assert scale.low < moved["low"] < moved["value"] < moved["high"] < scale.high


def test_a_share_of_exactly_one_is_as_near_as_its_rows_can_tell():
    """All right in two cell types, 9 of 10 in the third: the logit of 1 stands at 1 - 1 / 2n, not at infinity."""
    plan = iv.resampling(np.repeat([0, 1, 2], 10), np.zeros(30), 500, seed=1)
    held = np.ones(30)
    held[0] = 0
    assert 0.5 < iv.interval(iv.mean(plan, held), plan, iv.SHARE)["low"] < 0.9
    assert iv.interval(iv.mean(plan, np.ones(30)), plan, iv.SHARE) == {"value": 1.0, "low": 1.0, "high": 1.0}


# --- coverage of a known truth -------------------------------------------------------------------------------


def simulated(rng: np.random.Generator, n_cells: int, n_blocks: int, sd_cell: float, sd_block: float, n_windows: int = 40
              ) -> dict[str, np.ndarray]:
    """Draw windows whose model error has a scale of its own in each cell type and block (sd of its logarithm)."""
    shape = (n_cells, n_blocks, n_windows)
    scale = np.exp(rng.normal(0, sd_cell, (n_cells, 1, 1)) + rng.normal(0, sd_block, (1, n_blocks, 1)))
    measured, noise, other = rng.normal(size=(3, *shape))
    cell, block, _ = np.indices(shape)
    named = {"cell": cell, "block": block, "measured": measured, "predicted": measured + 0.5 * scale * noise,
             "average": measured + other}
    return {name: values.ravel() for name, values in named.items()}


def estimates(some: dict[str, np.ndarray], plan: iv.Resampling) -> dict[str, tuple[np.ndarray, iv.Scale]]:
    """Return skill, Pearson and AUPRC difference of model and average under every weighting, with their scales."""
    measured, predicted, average = (some[name] for name in ("measured", "predicted", "average"))
    label = (measured > 0.5).astype(int)
    areas = [iv.ranking(plan, label, values)[1] for values in (predicted, average)]
    return {"skill": (iv.skill(plan, measured, predicted, average), iv.SKILL),
            "pearson": (iv.pearson(plan, measured, predicted), iv.CORRELATION),
            "auprc difference": (areas[0] - areas[1], iv.DIFFERENCE)}


def coverage(design: tuple[int, int, float, float], n: int, n_bootstrap: int, seed: int = 11, single: bool = False
             ) -> tuple[dict[str, float], dict[str, float]]:
    """Return in what share of n draws the interval holds the value in 90,000 blocks, and its mean width.

    single: take every window for independent, which is wrong.
    """
    rng = np.random.default_rng(seed)
    n_cells, n_blocks, *sds = design
    many = simulated(rng, 300 if n_cells > 1 else 1, 300 if n_cells > 1 else 9_000, *sds, n_windows=10)
    one = iv.Resampling(np.zeros(many["cell"].size, int), np.zeros(many["cell"].size, int), np.ones((1, 1)), np.ones((1, 1)), 0)
    truth = {name: float(values[0]) for name, (values, _) in estimates(many, one).items()}
    held, width = {name: [] for name in truth}, {name: [] for name in truth}
    for _ in range(n):
        some = simulated(rng, *design)
        clusters = (np.zeros(some["cell"].size), np.arange(some["cell"].size)) if single else (some["cell"], some["block"])
        plan = iv.resampling(*clusters, n_bootstrap, seed=int(rng.integers(1 << 31)))
        for name, (values, scale) in estimates(some, plan).items():
            got = iv.interval(values, plan, scale)
            held[name].append(got["low"] <= truth[name] <= got["high"])
            width[name].append(got["high"] - got["low"])
    return tuple({name: float(np.mean(values)) for name, values in some.items()} for some in (held, width))


# cell types, blocks, sd of the log of the error's scale between cell types and between blocks
DESIGNS = {"alike": (3, 8, 0.15, 0.1), "pilot": (3, 8, 0.26, 0.1), "unlike": (3, 8, 0.5, 0.3), "one": (1, 10, 0.0, 0.2)}


@pytest.mark.parametrize("name", DESIGNS)
def test_intervals_cover_a_known_truth_about_as_often_as_they_promise(name):
    """From both sides: an interval without end would cover all. 200 draws tell 0.87 and 0.995 from the shares in the module's text."""
    held, width = coverage(DESIGNS[name], 200, 100)
    assert all(0.87 <= share <= 0.995 for share in held.values()), held
    assert all(np.isfinite(list(width.values()))) and width["pearson"] < 0.8 and width["auprc difference"] < 0.6


def test_single_windows_as_clusters_do_not_cover():
    """So the simulation does tell a broken interval from a sound one."""
    held, _ = coverage((3, 4, 0.5, 0.3), 25, 20, single=True)
    assert held["skill"] < 0.6


def test_a_cell_type_without_rows_does_not_count_as_one(rows):
    """As one without labels: the interval is that of a plan in which it never was."""
    known = rows["cell"] != "d"
    whole = iv.resampling(rows["cell"], rows["block"], 200, seed=1).take(known)
    alone = iv.resampling(rows["cell"][known], rows["block"][known], 200, seed=1)
    half_width = [iv._jackknife(iv.mse(plan, rows["y"][known], rows["x"][known]), plan) for plan in (whole, alone)]
    assert half_width[0] == pytest.approx(half_width[1])
