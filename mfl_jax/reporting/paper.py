"""The results of the paper (Nada et al.), shown next to ours: means of ten runs on the TUT data, percent."""

SCORES = {
    ("scene", "micro_f"): "scene micro F",
    ("scene", "macro_f"): "scene macro F",
    ("event", "micro_f"): "event micro F",
    ("event", "macro_f"): "event macro F",
}
"""The four scores of Table IV: (task, key in results.json) -> title."""
PROPOSED, CONVENTIONAL = "proposed", "conventional_mtl"
ALPHA = 0.001
"""Weight of the scene loss in the paper's conditions."""

TABLE_IV = {
    "cnn_asc": {"scene": {"micro_f": 49.68, "macro_f": 45.67}},
    "cnn_bigru_sed": {"event": {"micro_f": 40.10, "macro_f": 7.39}},
    "conventional_mtl": {"scene": {"micro_f": 52.55, "macro_f": 43.41}, "event": {"micro_f": 41.02, "macro_f": 6.83}},
    "proposed": {"scene": {"micro_f": 55.07, "macro_f": 47.85}, "event": {"micro_f": 44.29, "macro_f": 8.86}},
}
"""System -> task -> score."""

TABLE_V = {
    "cnn_bigru_sed": {
        "bird singing": 17.79, "car": 43.85, "people walking": 0.00, "washing dishes": 0.41, "water tap running": 43.23,
    },
    "conventional_mtl": {
        "bird singing": 23.72, "car": 45.10, "people walking": 0.00, "washing dishes": 0.24, "water tap running": 6.55,
    },
    "proposed": {
        "bird singing": 32.73, "car": 45.45, "people walking": 0.00, "washing dishes": 1.28, "water tap running": 36.41,
    },
}  # fmt: skip
"""System -> F of selected events."""

TITLES = {
    "cnn_asc": "CNN (scenes only)",
    "cnn_bigru_sed": "CNN-BiGRU (events only)",
    "conventional_mtl": "Conventional MTL",
    "proposed": "Proposed (multi-focal)",
}
"""System -> its name in tables and figures."""
