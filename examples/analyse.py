"""What is in a trained model: a walk through a run, cell by cell (`# %%` is a cell to editors that know notebooks).

python examples/analyse.py [RUN [DATASET [DATA_DIR [OUT]]]]

RUN is runs/proposed_quick by default, DATASET soundscapes/quick, DATA_DIR data, and the pictures go to OUT, analysis.
"""

# %% The model, from its checkpoint alone.
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

given = dict(enumerate(sys.argv[1:]))
out = pathlib.Path(given.get(3, "analysis"))
out.mkdir(parents=True, exist_ok=True)
model = mfl_jax.load(given.get(0, "runs/proposed_quick"))
print(f"{model.config.name}: checkpoint of step {model.step}; scenes {model.scenes}; events {model.events}")

# %% The clips that it was not trained on, and what it makes of them.
dataset = open_dataset(given.get(1, "soundscapes/quick"), given.get(2, "data"))
clips = dataset.read("evaluation")
taken = clips.take(np.arange(len(clips)))
# The last clip of a recording is shorter than the others: `valid_frames` says where it ends.
scene, events = model(taken["log_mel"][:8], taken["valid_frames"][:8])
print("scenes of the first clip:", {name: round(float(value), 3) for name, value in zip(model.scenes, scene[0], strict=True)})

# %% Where it errs: a row a clip.
table = analysis.clip_table(model, dataset)
columns = ["recording", "clip_start_s", "scene", "predicted_scene", "scene_probability", "event_f"]
print(table.sort_values("scene_probability")[columns].head(5).to_string())
print(f"scenes: {100 * table.scene_right.mean():.2f} % of the clips right")
missed_s = pd.DataFrame(table.missed_s.tolist()).sum().sort_values(ascending=False)
print("seconds missed, by event:", missed_s.round(1).to_dict())

# %% What the scene head sees: its 32 numbers a clip, on the two axes along which they differ most.
points = model.embeddings(taken["log_mel"], taken["valid_frames"])["scene"]
points -= points.mean(0)
_, spread, axes = np.linalg.svd(points, full_matrices=False)
share = np.square(spread) / max(np.square(spread).sum(), 1e-12)
figure, plot = plt.subplots(figsize=(6.5, 5), layout="constrained")
for number, name in enumerate(model.scenes):
    of_scene = taken["scene"] == number
    plot.scatter(*(points[of_scene] @ axes[:2].T).T, s=22, alpha=0.8, label=name)
plot.set_xlabel(f"first axis, {100 * share[0]:.0f} % of the variance")
plot.set_ylabel(f"second axis, {100 * share[1]:.0f} %")
plot.set_title("Clips as the scene head sees them")
plot.legend()
figure.savefig(out / "embeddings.png", dpi=120)

# %% What it hears for an event: where in the spectrogram energy speaks for it, and where against it.
active_frames = taken["events"].sum(1)
label = int(active_frames.sum(0).argmax())
most = np.where(active_frames[:, label] < len(taken["events"][0]), active_frames[:, label], 0)
clip = int(most.argmax())  # where it is heard most, and not throughout
log_mel = taken["log_mel"][clip]
heard = model.sensitivity(log_mel, model.events[label])
seconds = len(log_mel) * model.mel.hop_s
figure, (above, middle, below) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained", height_ratios=(2, 2, 1))
area = (0, seconds, 0, model.mel.mel_bins)
above.imshow(log_mel.T, origin="lower", aspect="auto", extent=area, cmap="magma")
above.set_title("log-mel spectrogram")
highest = np.quantile(np.abs(heard), 0.995) or 1
middle.imshow(heard.T, origin="lower", aspect="auto", extent=area, cmap="RdBu_r", vmin=-highest, vmax=highest)
middle.set_title(f"what speaks for (red) and against (blue) “{model.events[label]}”")
for plot in (above, middle):
    plot.set_ylabel("mel bin")
times = (np.arange(len(log_mel)) + 0.5) * model.mel.hop_s
below.plot(times, model(log_mel)[1][:, label], label="score")
below.fill_between(times, taken["events"][clip, :, label], alpha=0.25, step="mid", label="labelled")
below.set(ylim=(0, 1.02), xlabel="seconds", ylabel="probability", title=model.events[label])
below.legend(loc="upper right")
figure.savefig(out / "sensitivity.png", dpi=120)
print(f"written: {out / 'embeddings.png'}, {out / 'sensitivity.png'}")
