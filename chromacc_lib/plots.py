"""Figures of the notebooks, gathered from the modules `plots_*`: one style, one colour-blind-safe palette, alt text.

Every `plot_*` function takes tables or arrays, draws, and returns a matplotlib Figure; `show` displays it. Only modules
whose name begins with `plots` import matplotlib or seaborn.
"""

from chromacc_lib.plots_collapse import (
    VERDICT_COLOURS,
    checks_table,
    diagnosis_table,
    plot_checks,
    plot_confusion,
    plot_gallery,
    plot_inside,
    plot_label_signal,
    plot_modality_drop,
    plot_offset_scan,
    plot_prediction_distributions,
    plot_quadrants,
    plot_training_health,
    plot_variance_ratio,
)
from chromacc_lib.plots_compare import plot_ahead, plot_runs_by_cell_type
from chromacc_lib.plots_curation import (
    plot_cell_type_correlation,
    plot_match,
    plot_normalizations,
    plot_observed,
    plot_openness,
    plot_scale,
    plot_splits,
    plot_window_tracks,
)  # fmt: skip
from chromacc_lib.plots_evaluation import (
    MAX_CELL_TYPES,
    plot_assay_worth,
    plot_calibration,
    plot_error_by_distance,
    plot_error_by_spread,
    plot_intervals,
    plot_loci,
    plot_predicted_measured,
    plot_roc_pr,
)  # fmt: skip
from chromacc_lib.plots_explorers import plot_attention, plot_followed, plot_locus, plot_what_if
from chromacc_lib.plots_interpretation import (
    plot_attention_flow,
    plot_attention_summary,
    plot_contribution_track,
    plot_deletion_insertion,
    plot_input_rise,
    plot_marginals,
    plot_motif_logos,
    plot_shapley,
    plot_signal_contributions,
    plot_spacing,
)  # fmt: skip
from chromacc_lib.plots_prediction import plot_average_density, plot_browser, plot_input_distance, plot_knockouts
from chromacc_lib.plots_style import PALETTE, Markup, colour, png, show, table_html, use_style
from chromacc_lib.plots_training import plot_branches, plot_learning, plot_pretraining, plot_vitals

__all__ = [
    "checks_table", "colour", "diagnosis_table", "Markup", "MAX_CELL_TYPES", "PALETTE", "plot_ahead",
    "plot_assay_worth", "plot_attention", "plot_attention_flow", "plot_attention_summary", "plot_average_density",
    "plot_branches", "plot_browser", "plot_calibration", "plot_cell_type_correlation", "plot_checks",
    "plot_confusion", "plot_contribution_track", "plot_deletion_insertion", "plot_error_by_distance",
    "plot_error_by_spread", "plot_followed", "plot_gallery", "plot_input_distance", "plot_input_rise", "plot_inside",
    "plot_intervals", "plot_knockouts", "plot_label_signal", "plot_learning", "plot_loci", "plot_locus",
    "plot_marginals", "plot_match", "plot_modality_drop", "plot_motif_logos", "plot_normalizations", "plot_observed",
    "plot_offset_scan", "plot_openness", "plot_predicted_measured", "plot_prediction_distributions",
    "plot_pretraining", "plot_quadrants", "plot_roc_pr", "plot_runs_by_cell_type", "plot_scale", "plot_shapley",
    "plot_signal_contributions", "plot_spacing", "plot_splits", "plot_training_health", "plot_variance_ratio",
    "plot_vitals", "plot_what_if", "plot_window_tracks", "png", "show", "table_html", "use_style", "VERDICT_COLOURS",
]
