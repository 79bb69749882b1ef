"""What is run: each experiment is a list of models, trained or ready, that are measured on one bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .data import SEEDS, SHARES

LATENT = {"input": "latent", "noise_level": "token", "objective": "contrast,distill:2", "learning_rate": 5e-4}
"""The settings of `noisyclip-t`: it reads latents and is told their noise level."""
PAPER = {"input": "preview", "noise_level": "none", "objective": "contrast", "learning_rate": 3e-4}
"""Those of the paper: it reads previews and is not told."""
FORWARD = {"process": "forward", "positions": "0:50"}


@dataclass(frozen=True)
class Run:
    """A model of an experiment.

    Attributes:
        row: its name in the tables.
        model: a scorer that is ready; None: one is trained.
        data: the training data; {seed} stands for the seed.
        start: shipped model, or name of a data set, that training starts from; None: the frozen CLIP.
        settings: fields of `TrainConfig`.
        trainings: with as many seeds.
    """

    row: str
    model: str | None = None
    data: str = ""
    start: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    trainings: int = SEEDS

    @property
    def seeds(self) -> range:
        """One model is ready, several are trained."""
        return range(1 if self.model else min(self.trainings, SEEDS))


@dataclass(frozen=True)
class Experiment:
    """A question, and the models that answer it.

    Attributes:
        crossed: models are trained on images of the bench itself, the one of each seed on the prompts of other folds; a
            prompt is scored by the model that did not see it.
        finding: the answer, written when it had been run.
    """

    title: str
    question: str
    runs: tuple[Run, ...]
    bench: str = "bench"
    positions: tuple[int, ...] = (5, 10, 15, 20, 30, 50)
    references: tuple[str, ...] = ("vqascore", "truth")
    crossed: bool = False
    finding: str = ""


def _heat_map() -> tuple[Run, ...]:
    ranges = ("10:19", "20:29", "30:39", "40:49", "0:50")
    told = {"not told": "none", "told": "token"}
    return tuple(
        Run(
            f"trained on {positions.replace(':', '-')}, {name}",
            data="scenes-4000",
            settings=PAPER | FORWARD | {"positions": positions, "noise_level": level, "epochs": 6},
        )
        for name, level in told.items()
        for positions in ranges
    )


def _objectives() -> tuple[Run, ...]:
    common = FORWARD | {"epochs": 12}
    inputs = {
        "preview": PAPER,
        "preview, told": PAPER | {"noise_level": "token"},
        "latent": LATENT | {"noise_level": "none"},
        "latent, told": LATENT,
        "latent, told in the layer norms": LATENT | {"noise_level": "adaln"},
    }
    losses = ("contrast", "distill", "sigmoid", "reference", "listwise", "lambdarank", "bradley-terry")
    rows = [(f"input: {name}", settings | {"objective": "contrast,distill:2"}) for name, settings in inputs.items()]
    rows += [(f"objective: {loss}", LATENT | {"objective": loss}) for loss in losses]
    rows += [("objective: contrast,distill:2,listwise", LATENT | {"objective": "contrast,distill:2,listwise"})]
    return tuple(Run(name, data="generated", settings=common | settings) for name, settings in rows)


def _rows() -> tuple[Run, ...]:
    counts = (1000, 4000, 16_000, 64_000)
    most = max(counts)
    trained = [
        Run(f"{count} scenes", data=f"scenes-{count}", settings=LATENT | FORWARD | {"epochs": most // count})
        for count in counts
    ]
    return (
        *trained,
        Run("100000 scenes, 1.5 times as many steps", data="scenes-100000", settings=LATENT | FORWARD | {"epochs": 1}),
        Run(
            f"{most} scenes, image tower twice as deep",
            data=f"scenes-{most}",
            settings=LATENT | FORWARD | {"deepen": 2, "epochs": 1},
        ),
        Run("ceiling: noisyclip-t, 240000 scenes, 18 times as many steps", "noisyclip-t"),
        Run(
            "ceiling: 40000 scenes, 12 times as many steps, image tower twice as deep",
            data="scenes-40000",
            settings=LATENT | FORWARD | {"deepen": 2, "epochs": 20},
            trainings=1,
        ),
        Run("ceiling: frozen CLIP on finished images", "image:clip"),
        Run("ceiling: VQAScore on finished images", "vqascore"),
    )


def _share(percent: int, targets: str) -> Run:
    settings = PAPER | FORWARD | {"positions": "20:30", "targets": targets, "epochs": 15}
    return Run(f"{percent} % right, trained on {targets}s", data=f"share-{percent}-{{seed}}", settings=settings)


EXPERIMENTS = {
    "heat-map": Experiment(
        "The paper's heat map",
        "Which positions should a model be trained on, and does it help to tell it the noise level?",
        _heat_map(),
        finding="The paper's diagonal is there: at 10 the model trained on 10-19 keeps most (.32 by `truth`), at 20 "
        "that of 20-29 (.77), at 25 that of 30-39 (.85), from 35 on that of 40-49 (.95). A model trained late "
        "still works on nearly finished latents, one trained early stays at .66 to the end. After the same "
        "375 steps one model of previews for all positions is behind the specialised ones everywhere but at "
        "10 (.53 at 20): it has less practice at each. It needs more steps, not more models: `noisyclip-t`, "
        "trained for all positions with 18,600 steps and on latents, is ahead of all rows up to 25. Being "
        "told the noise level adds .02 to .07 at 10 to 20 on average, within the intervals, and nothing "
        "later.",
        positions=(5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
    ),
    "objectives": Experiment(
        "Inputs and objectives",
        "Which input and which objective keep most of the gain, with the same rows and the same number of steps?",
        _objectives(),
        finding="Reading latents beats previews (.27 against .14 at 10 by `truth`), and being told the noise level "
        "adds to both (.33 and .21). With so few rows distillation alone is the best objective: .70 at 15, "
        "where contrast with distillation keeps .58 and contrast alone .50; `sigmoid` is between them (.61). "
        "Losses on the order of candidates alone learn next to nothing, 1,600 images have too few orders. "
        "With 40,000 scenes the difference is gone: after 25 passes over them `noisyclip-t` kept .78 at 10 by "
        "`vqascore`, four more by distillation alone keep .78, and 8 or 24 passes on these trajectories with a "
        "listwise loss added keep .80 and .79.",
    ),
    "processes": Experiment(
        "Reverse against forward",
        "Is noise added to finished latents as good to train on as the recorded trajectories of the same images?",
        tuple(
            Run(
                f"{process}",
                data="generated",
                settings=LATENT | {"process": process, "positions": "0:50:5", "epochs": 12},
            )
            for process in ("reverse", "forward")
        ),
        finding="Yes. With the same images, positions and steps both keep the same from 10 on: .32 at 10, .61 and .64 "
        "at 15, .73 and .75 at 20 by `truth`. The forward process needs only the finished latents, a tenth of "
        "the storage, draws its noise anew in every epoch, and can use images that no denoiser had to make. "
        "At 5 trajectories are ahead by .04 by `truth` and .08 by `vqascore`, within the intervals.",
    ),
    "estimates": Experiment(
        "Trained on x0 estimates",
        "Does a model that is trained on x0 estimates and told the noise level beat frozen CLIP on the same estimates?",
        (
            Run("x0-clip *, frozen", "x0-clip"),
            Run("noisyclip-t, for comparison", "noisyclip-t"),
            *(
                Run(
                    f"trained on {reads} *",
                    data="generated",
                    settings=LATENT | {"input": reads, "process": "reverse", "positions": "0:45:5", "epochs": 12},
                )
                for reads in ("x0", "x0_preview")
            ),
        ),
        finding="No. With 1,600 images in training it keeps .54 at 5 where frozen CLIP keeps .50, and .77 at 8 as that "
        "does, within the intervals; at 10 it is behind (.86 to .89 against .94 by `vqascore`, .80 to .83 against "
        ".90 by `truth`), later level or slightly behind. x0 estimates are pictures that CLIP can read as it is, and "
        "so few images teach it nothing about them. One further denoiser call is worth more than training up to 10 "
        "(`noisyclip-t` keeps .14 at 5 and .80 at 10), and nothing from 15 on, where `noisyclip-t` is ahead. So no "
        "model of x0 estimates is shipped; a VQA model that is trained on them is another matter (the frontier).",
        positions=(5, 8, 10, 15, 20, 30),
    ),
    "rows": Experiment(
        "How many scenes",
        "With the same number of steps, where does more training data stop helping, what does an image tower of twice "
        "the depth add, and how far is the ceiling: many more steps, or the references themselves on finished images?",
        _rows(),
        finding="After 1,000 steps at 16,000 scenes: by `truth` .43, .49, .54 and .54 at 10, .72, .80, .84 and .82 at "
        "20 for 1,000 to 64,000. What helps then is more steps, and up to a point depth: 100,000 scenes, each "
        "seen once in 1.5 times as many steps, give .59 and .88, and as much, .61 and .88, comes from the "
        "same 1,000 steps with twice the layers in the image tower, each added one beginning as no change "
        "(`--deepen 2`). But the deeper model is no better in the end: after 12 times as many steps (one seed) "
        "it keeps .78 and .96, where `noisyclip-t`, as deep as the frozen CLIP, kept "
        ".83 and .98 after 15 times as many (.76 and .78 at 10 by `vqascore`); the mean of both models' "
        "scores kept .79 there. A further pass over 200,000 scenes, four fifths of them new, moved that to .80 "
        "(.84 and .97 by `truth`) and left its loss on held-out captions where it was (1.281 and 1.284). So "
        "about .8 at 10 is what these latents tell such a reader, however many scenes it has seen, one "
        "further denoiser call tells .94, and from 20 on it is what the references themselves tell of "
        "finished images (1.00 and 1.05).",
    ),
    "generators": Experiment(
        "Another generator",
        "Does a model trained for one generator rank the candidates of another (a UNet that predicts noise, on another "
        "schedule), and what does a short adaptation to its noise levels add?",
        (
            Run("clip, frozen", "clip"),
            Run("noisyclip, trained for the first generator", "noisyclip"),
            Run("noisyclip-t, trained for the first generator", "noisyclip-t"),
            Run(
                "noisyclip-t, adapted",
                data="scenes-1000-shapes-unet",
                start="noisyclip-t",
                settings=LATENT | FORWARD | {"epochs": 5, "learning_rate": 2e-4},
            ),
            Run(
                "trained for the second generator",
                data="scenes-4000-shapes-unet",
                settings=LATENT | FORWARD | {"epochs": 10},
            ),
        ),
        bench="bench-shapes-unet",
        finding="It does. The second generator decides its images later, at 15 to 30, since its schedule keeps more "
        "noise. `noisyclip-t` keeps .78 of the gain at 20 by `truth` there, .94 at 30 and all from 35 on, without "
        "ever having seen that generator: latents of both are put on one scale, and the level that it is told "
        "means the same mix of signal and noise. Adaptation by 75 steps on 1,000 rendered scenes with the new "
        "generator's noise adds nothing, and a model that was trained for the second generator alone, on "
        "4,000 scenes x 10, stays behind (.36 at 20): what counts is how much was learned, not for which "
        "generator. `noisyclip`, which reads previews and is not told the level, is ahead of frozen CLIP "
        "there as well, but far behind `noisyclip-t` (.07 at 20, .49 at 30).",
        positions=(10, 15, 20, 25, 30, 35, 40, 50),
    ),
    "judge": Experiment(
        "An independent judge",
        "What do scorers keep of the gain if the judge is what the image really shows, and how good are VQAScore and "
        "CLIP themselves?",
        (
            Run("clip, frozen", "clip"),
            Run("noisyclip", "noisyclip"),
            Run("noisyclip-t", "noisyclip-t"),
            Run("x0-clip *", "x0-clip"),
            Run("x0-image *", "x0-image"),
            Run("image:clip, finished image", "image:clip"),
            Run("vqascore, finished image", "vqascore"),
            Run("truth, finished image", "truth"),
        ),
        references=("clip", "vqascore", "truth"),
        finding="41 % of all images show exactly their caption, and 83 % of the prompts have such an image among "
        "their six candidates. Final-image selection gets 74 % by frozen CLIP and 76 % by VQAScore: both "
        "are good judges, neither is perfect. VQAScore and `truth` give scorers the same order up to 20, "
        "and gains that differ by at most .08, within the intervals: `noisyclip-t` keeps .80 and .84 at 10, "
        "`x0-clip` .94 and .90.",
    ),
    "captions": Experiment(
        "Training on captions",
        "The paper trains on captions, frozen CLIP's scores are the safer target here: at which share of images that "
        "show their caption does that turn?",
        (
            Run("clip, frozen", "clip"),
            *(_share(percent, "caption") for percent in SHARES),
            _share(50, "image"),
        ),
        positions=(15, 20, 25, 30),
        crossed=True,
        finding="Between a half and all. With 470 images to train on, captions of which none or half are right "
        "leave .15 and .22 of the gain at 20 by `truth`, far below frozen CLIP (.51); where all are right "
        "it is .58 (.46 to .71), slightly above it at 15 and 20 and below it at 30. Trained on frozen "
        "CLIP's scores of the same images, half of them wrong, the model keeps .67. So train on captions "
        "only if nearly all images show them, and else on the scores (`--targets image`, the default).",
    ),
}
