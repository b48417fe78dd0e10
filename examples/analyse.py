"""Explores a trained model cell by cell; editors with notebook support run each `# %%` block as a cell.

python examples/analyse.py [RUN [DATASET [DATA_DIR [OUT]]]]

Defaults: RUN runs/proposed_quick, DATASET soundscapes/quick, DATA_DIR data, OUT analysis (the folder for the figures).
"""

# %% Load the model from its checkpoint.
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import mfl_jax
from mfl_jax import analysis
from mfl_jax.data.prepared_dataset import open_dataset

arguments = dict(enumerate(sys.argv[1:]))
out = pathlib.Path(arguments.get(3, "analysis"))
out.mkdir(parents=True, exist_ok=True)
model = mfl_jax.load(arguments.get(0, "runs/proposed_quick"))
print(f"{model.config.name}: checkpoint of step {model.step}; scenes {model.scenes}; events {model.events}")

# %% Predict the clips of the evaluation split.
dataset = open_dataset(arguments.get(1, "soundscapes/quick"), arguments.get(2, "data"))
clips = dataset.read("evaluation")
examples = clips.take(np.arange(len(clips)))
# The last clip of a recording may be shorter than the others; `valid_frames` is its number of frames.
scene, events = model(examples["log_mel"][:8], examples["valid_frames"][:8])
print("scenes of the first clip:", {name: round(float(value), 3) for name, value in zip(model.scenes, scene[0], strict=True)})

# %% Find the errors, in a table with one row per clip.
table = analysis.clip_table(model, dataset)
columns = ["recording", "clip_start_s", "scene", "predicted_scene", "scene_probability", "event_f"]
print(table.sort_values("scene_probability")[columns].head(5).to_string())
print(f"scenes: {100 * table.scene_right[table.scene_counts].mean():.2f} % of the clips correct")
missed_s = pd.DataFrame(table.missed_s.tolist()).sum().sort_values(ascending=False)
print("seconds missed, by event:", missed_s.round(1).to_dict())

# %% Plot the embeddings of the scene head, 32 values per clip, on their first two principal axes.
points = model.embeddings(examples["log_mel"], examples["valid_frames"])["scene"]
points -= points.mean(0)
_, spread, axes = np.linalg.svd(points, full_matrices=False)
share = np.square(spread) / max(np.square(spread).sum(), 1e-12)
figure, plot = plt.subplots(figsize=(6.5, 5), layout="constrained")
for number, name in enumerate(model.scenes):
    selected = examples["scene"] == number
    plot.scatter(*(points[selected] @ axes[:2].T).T, s=22, alpha=0.8, label=name)
plot.set_xlabel(f"first axis, {100 * share[0]:.0f} % of the variance")
plot.set_ylabel(f"second axis, {100 * share[1]:.0f} %")
plot.set_title("Scene embeddings of the clips")
plot.legend()
figure.savefig(out / "embeddings.png", dpi=120)

# %% Plot the sensitivity of an event score: where energy in the spectrogram raises it, and where it lowers it.
active_frames = examples["events"].sum(1)
label = int(active_frames.sum(0).argmax())
frame_counts = np.where(active_frames[:, label] < len(examples["events"][0]), active_frames[:, label], 0)
clip = int(frame_counts.argmax())  # the clip with most active frames, though not only active ones
log_mel = examples["log_mel"][clip]
sensitivity = model.sensitivity(log_mel, model.events[label])
seconds = len(log_mel) * model.mel.hop_s
figure, (above, middle, below) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained", height_ratios=(2, 2, 1))
area = (0, seconds, 0, model.mel.mel_bins)
above.imshow(log_mel.T, origin="lower", aspect="auto", extent=area, cmap="magma")
above.set_title("log-mel spectrogram")
limit = np.quantile(np.abs(sensitivity), 0.995) or 1
middle.imshow(sensitivity.T, origin="lower", aspect="auto", extent=area, cmap="RdBu_r", vmin=-limit, vmax=limit)
middle.set_title(f"sensitivity of “{model.events[label]}”: energy raises (red) or lowers (blue) its score")
for plot in (above, middle):
    plot.set_ylabel("mel bin")
times = (np.arange(len(log_mel)) + 0.5) * model.mel.hop_s
below.plot(times, model(log_mel)[1][:, label], label="score")
below.fill_between(times, examples["events"][clip, :, label], alpha=0.25, step="mid", label="labelled")
below.set(ylim=(0, 1.02), xlabel="seconds", ylabel="probability", title=model.events[label])
below.legend(loc="upper right")
figure.savefig(out / "sensitivity.png", dpi=120)
print(f"written: {out / 'embeddings.png'}, {out / 'sensitivity.png'}")
