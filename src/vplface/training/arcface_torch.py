"""Recipes from configurations of arcface_torch (insightface), and of the VPL authors' code that came from it.

The keys, and what those trainers make of them, are those published in ``recognition/arcface_torch`` and
``recognition/vpl`` of insightface. Two generations differ: one has ``margin_list``, a rate as it is written and a
polynomial decay; the older has ``loss``, a rate for 512 pictures, and steps (``decay_epoch``, ``lr_func``).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from vplface.backbones import BACKBONES
from vplface.config import Config, build_config
from vplface.errors import ConfigError
from vplface.reading import is_file
from vplface.strict_yaml import parse_yaml
from vplface.training.assignments import Assigned, Assignments, NotRead, printable, read_assignments
from vplface.training.translation import Line, Remark, Translation

FILL_IN = "FILL-IN"
"""Stands where a recipe needs a word that the configuration does not give; no data and no network has this name."""

_NETWORKS = {
    **{f"r{depth}": f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)},
    **{f"iresnet{depth}": f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)},
}
"""Theirs → ours, where the names differ."""

_PUBLISHED: dict[str, Any] = {
    "network": "r50",
    "margin_list": (1.0, 0.5, 0.0),
    "loss": "arcface",
    "embedding_size": 512,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "sample_rate": 1.0,
    "fp16": False,
}
"""What the published base.py gives to keys that a configuration leaves out, where our default may be another."""

_PLACES = {
    "num_epoch": "schedule.length",
    "warmup_epoch": "schedule.warmup",
    "decay_epoch": "schedule",
    "lr_func": "schedule",
    "margin_list": "margin",
    "loss": "margin",
    "vpl": "variational",
    "lr": "optimizer.lr",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "optimizer": "optimizer.name",
    "embedding_size": "backbone.embedding_dim",
    "dataset": "backbone.options",
    "batch_size": "batch_size",
    "gradient_acc": "accumulate",
    "fp16": "precision",
    "sample_rate": "sample_rate",
    "seed": "seed",
    "num_workers": "data.workers",
    "val_targets": "evaluation.sets",
    "verbose": "evaluation.every",
    "frequent": "log_every",
    "output": "output",
    "rec": "data.train",
    "network": "backbone.name",
}
"""What each key becomes."""

_NO_COUNTERPART = {
    "num_classes": "counted in the data",
    "num_image": "counted in the data",
    "resume": "vplface train --resume",
    "save_all_states": "checkpoints always hold everything",
    "dali": "data.workers processes decode pictures",
    "dali_aug": "see data.augmentation: scale, low_resolution, blur, grey",
    "tf32": "products are float32, or bfloat16 with precision",
    "interclass_filtering_threshold": "there such cosines become 0; interclass_threshold here leaves out such classes",
    "using_wandb": "loggers: [tensorboard, wandb]",
    **dict.fromkeys(
        (
            "wandb_key",
            "wandb_entity",
            "wandb_project",
            "wandb_log_all",
            "wandb_resume",
            "suffix_run_name",
            "save_artifacts",
        ),
        "see loggers; W&B's own WANDB_PROJECT, WANDB_ENTITY and `wandb login` say where to",
    ),
}

_NUMBER = (int, float)
_LOSSES = {"arcface": 0.5, "cosface": 0.4}


def translate(path: Path, gpus: int = 1) -> Translation:
    """A recipe that trains what a configuration of arcface_torch trains there, and what it cannot say.

    A ``base.py`` beside the file is read first, as their loader does; without one, keys that are left out have the
    values of the published ``base.py``. Nothing is run, see :func:`read_assignments`.

    Args:
        path: the configuration.
        gpus: processes it was trained with; ``batch_size`` is that of one of them.

    Raises:
        ConfigError: if a file cannot be read, or a key holds what makes no sense for it; file and line are given.
    """
    base = path.with_name("base.py")
    found = read_assignments(base) if is_file(base) and path.name != "base.py" else Assignments()
    own = read_assignments(path)
    for key, value in own.keys.items():
        found.keys.pop(key, None)
        found.keys[key] = value
    found.statements += own.statements
    return _Translator(path, found, gpus).run()


class _Translator:
    def __init__(self, path: Path, found: Assignments, gpus: int) -> None:
        self.path, self.found, self.gpus = path, found, gpus
        self.made = Translation(printable(path.name))
        self.origins: dict[str, str] = {}
        self.older = "margin_list" not in found.keys and bool({"vpl", "lr_func", "decay_epoch"} & found.keys.keys())

    def run(self) -> Translation:
        self.name()
        self.data()
        self.backbone()
        self.margin()
        self.variational()
        self.copy("sample_rate", "sample_rate", _NUMBER)
        if (rate := self.get("sample_rate", _NUMBER)) is not None and rate < 1:
            self.differ(
                "sample_rate: exactly this share of each GPU's classes there; here each class has this probability"
            )
        self.optimizer()
        self.schedule()
        self.steps()
        self.rest()
        order = list(Config.model_fields)
        self.made.lines.sort(key=lambda line: order.index(line.key.partition(".")[0]))
        origin = f"the recipe from {self.path}"
        build_config(parse_yaml(self.made.to_yaml(), origin), origin)
        return self.made

    def get(self, key: str, kinds: type | tuple[type, ...]) -> Any:
        """The value of a key, of the published base.py where it is left out; None where there is none or it is None."""
        known = self.found.keys.get(key)
        if isinstance(known, NotRead):
            self.origins[key] = known.where
            return None
        if known is None:
            self.origins.setdefault(key, f"config.{key} of the published base.py")
            return _PUBLISHED.get(key)
        self.origins[key] = f"config.{key}, {known.where}"
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        wrong = not isinstance(known.value, kinds) or (isinstance(known.value, bool) and bool not in kinds)
        if known.value is not None and wrong:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ConfigError(f"{known.where}: config.{key} must be {wanted}, got {known.value!r}")
        return known.value

    def write(self, key: str, value: Any, *origins: str) -> None:
        said = "; ".join(self.origins.get(origin, origin) for origin in origins)
        self.made.lines.append(Line(key, value, said))

    def copy(self, key: str, to: str, kinds: type | tuple[type, ...]) -> None:
        value = self.get(key, kinds)
        if value is not None:
            self.write(to, value, key)

    def differ(self, text: str) -> None:
        self.made.differences.append(text)

    def fill_in(self, key: str, text: str, where: str = "") -> None:
        self.made.to_fill_in.append(Remark(key, where, text))

    def at(self, key: str) -> str:
        known = self.found.keys.get(key)
        return "" if known is None else known.where

    def name(self) -> None:
        output = self.get("output", str)
        place = PurePosixPath(output or self.path.stem)
        word = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in place.name
        )
        self.write("name", word.lstrip("._-") or "imported", "output" if output else "the name of the file")
        if output and str(place.parent) != ".":
            self.write("output", str(place.parent), "output")
        self.copy("seed", "seed", int)

    def data(self) -> None:
        folder = self.get("rec", str)
        if folder is None or folder == "synthetic":
            why = "random pixels, to measure speed" if folder else "config.rec gives no folder"
            self.fill_in("data.train", f"{why}; a folder of pictures or of RecordIO", self.at("rec"))
            self.write("data.train", FILL_IN, "to fill in")
        else:
            self.write("data.train", folder, "rec")
        self.copy("num_workers", "data.workers", int)
        targets = self.get("val_targets", (list, tuple))
        if targets is None:
            return
        where = self.at("val_targets")
        if not all(isinstance(target, str) for target in targets) or len(set(targets)) < len(targets):
            raise ConfigError(f"{where}: config.val_targets must be different names, got {targets!r}")
        if targets and folder in (None, "synthetic"):
            self.fill_in("evaluation.sets", "config.val_targets are files NAME.bin in the folder of config.rec", where)
        elif targets:
            sets = [{"name": target, "path": str(PurePosixPath(folder) / f"{target}.bin")} for target in targets]
            self.write("evaluation.sets", sets, "val_targets", "rec")
            self.differ(
                "val_targets: thresholds on a grid there, exact ones here (vplface evaluate --protocol insightface has "
                "theirs); a .bin file that is missing is skipped there and an error here"
            )

    def backbone(self) -> None:
        network = self.get("network", str)
        name = _NETWORKS.get(network, network) if network else FILL_IN
        if name not in BACKBONES:
            self.fill_in(
                "backbone.name", f"no {network or 'network'} here; there are {', '.join(BACKBONES)}", self.at("network")
            )
        self.write("backbone.name", name, "network" if network else "to fill in")
        self.copy("embedding_size", "backbone.embedding_dim", int)
        known = self.found.keys.get("dataset")
        if isinstance(known, Assigned):
            if known.value == "webface" and name.startswith("iresnet"):
                self.get("dataset", str)
                self.write("backbone.options", {"dropout": 0.4}, "dataset")
            else:
                self.made.no_counterpart.append(Remark("dataset", known.where, "a label; config.rec is what is read"))

    def margin(self) -> None:
        if "margin_list" in self.found.keys or not (self.older or "loss" in self.found.keys):
            self.margin_list()
            if "loss" in self.found.keys:
                self.made.no_counterpart.append(Remark("loss", self.at("loss"), "margin_list says what the margin is"))
            return
        loss = self.get("loss", str)
        if loss in _LOSSES:
            for key, value in (("name", loss), ("margin", _LOSSES[loss]), ("scale", 64.0)):
                self.write(f"margin.{key}", value, "loss")
        elif loss is not None:
            self.fill_in("margin", f"there are arcface and cosface, not {loss!r}", self.at("loss"))

    def margin_list(self) -> None:
        margins, where = self.get("margin_list", (list, tuple)), self.at("margin_list")
        if margins is None:
            return
        if len(margins) != 3 or not all(type(margin) in _NUMBER for margin in margins):
            raise ConfigError(f"{where}: config.margin_list must be three numbers, got {margins!r}")
        m1, m2, m3 = margins
        options: dict[str, Any]
        if m1 == 1 and m3 == 0:
            options = {"name": "arcface", "margin": m2, "margin_gradient": "detached"}
            self.differ(
                "margin_list: their margin is added without being differentiated, and cos(θ + m) rises again past "
                "π − m. margin_gradient: detached has the first; leave it out for the exact gradient"
            )
        elif m1 == 1 and m2 == 0:
            options = {"name": "cosface", "margin": m3}
        else:
            options = {"name": "combined", "m1": m1, "m2": m2, "m3": m3}
            theirs = f"m3 > 0 means cosface with margin {m3:g} alone" if m3 > 0 else "these numbers are refused"
            self.differ(f"margin_list: combined applies all three; there {theirs}")
        for key, value in {**options, "scale": 64.0}.items():
            self.write(f"margin.{key}", value, "margin_list" if key in options else "64 in their trainer")

    def variational(self) -> None:
        vpl = self.get("vpl", dict)
        if vpl is None:
            return
        where = self.at("vpl")
        words = {"lambda": "lam", "allowed_delta": "delta_t", "start_iters": "start"}
        for key in vpl:
            if key not in (*words, "mode", "momentum"):
                self.made.unknown.append(Remark(f"vpl[{key!r}]", where, "no key of theirs that is known"))
        if vpl.get("mode", -1) != 0:
            text = f"mode {vpl.get('mode', -1)!r} injects nothing; only 0 does"
            self.made.no_counterpart.append(Remark("vpl", where, text))
            return
        for key, ours in words.items():
            if key not in vpl:
                self.fill_in(f"variational.{ours}", f"config.vpl has no {key!r}", where)
            elif type(vpl[key]) not in _NUMBER:
                raise ConfigError(f"{where}: config.vpl[{key!r}] must be a number, got {vpl[key]!r}")
            else:
                self.write(f"variational.{ours}", vpl[key], "vpl")
        if vpl.get("momentum"):
            self.write("variational.momentum", 0.999, "vpl")
        self.differ(
            "vpl: their memory is written from the first step on and used from start_iters on; here it begins, empty, "
            "at start, so coverage rises over the Δt steps that follow"
        )

    def optimizer(self) -> None:
        name = self.get("optimizer", str)
        if name in ("sgd", "adamw"):
            self.write("optimizer.name", name, "optimizer")
        elif name is not None:
            self.fill_in("optimizer.name", f"there are sgd and adamw, not {name!r}", self.at("optimizer"))
        rate, batch = self.get("lr", _NUMBER), self.get("batch_size", int)
        if self.older and rate is not None and batch is not None:
            total = batch * self.gpus
            self.write("optimizer.lr", rate / 512 * total, f"{self.origins['lr']} / 512 × {total}")
            self.differ(f"lr: for 512 pictures there, {rate:g} / 512 × {total} pictures a step here")
        elif self.older and rate is not None:
            self.fill_in("optimizer.lr", f"{rate:g} / 512 × pictures a step", self.at("lr"))
        elif rate is not None:
            self.write("optimizer.lr", rate, "lr")
        self.copy("momentum", "optimizer.momentum", _NUMBER)
        if self.get("momentum", _NUMBER) not in (None, 0.9):
            self.differ("momentum: their trainers use 0.9 whatever it says")
        self.copy("weight_decay", "optimizer.weight_decay", _NUMBER)
        self.differ(
            "weight_decay: of all weights there; here not of biases, BatchNorm's scales and shifts, and PReLU's slopes"
        )
        self.write("optimizer.clip", 5.0, "5 in their trainers")
        self.differ("clip: the norm of the backbone's gradient there, of backbone and prototypes together here")

    def schedule(self) -> None:
        epochs = self.get("num_epoch", _NUMBER)
        if epochs is not None:
            self.write("schedule.length", f"{epochs} epochs", "num_epoch")
        elif "num_epoch" not in self.found.keys:
            self.fill_in("schedule.length", "there is no config.num_epoch; the default is 20 epochs")
        warmup = self.get("warmup_epoch", _NUMBER)
        if warmup is not None or "warmup_epoch" not in self.found.keys:
            origin = "warmup_epoch" if warmup is not None else "no config.warmup_epoch"
            self.write("schedule.warmup", f"{max(warmup or 0, 0)} epochs", origin)
        decay = self.get("decay_epoch", (list, tuple))
        if decay is not None:
            if not all(type(epoch) in _NUMBER for epoch in decay):
                raise ConfigError(f"{self.at('decay_epoch')}: config.decay_epoch must be numbers, got {decay!r}")
            self.write("schedule.name", "step", "decay_epoch")
            self.write("schedule.milestones", [f"{epoch} epochs" for epoch in decay], "decay_epoch")
            self.write("schedule.gamma", 0.1, "0.1 in their trainer")
        elif not {"decay_epoch", "lr_func"} & self.found.keys.keys():
            self.write("schedule.name", "polynomial", "their PolyScheduler")
            self.write("schedule.power", 2.0, "their PolyScheduler")

    def steps(self) -> None:
        parts = self.get("gradient_acc", int)
        parts = 1 if parts is None else self.at_least_one("gradient_acc", parts)
        batch = self.get("batch_size", int)
        if batch is not None:
            self.at_least_one("batch_size", batch)
            factors = f" × {self.gpus} GPUs" * (self.gpus > 1) + f" × {parts} parts" * (parts > 1)
            self.write("batch_size", batch * self.gpus * parts, self.origins["batch_size"] + factors)
            said = f"--gpus {self.gpus} was given" if self.gpus > 1 else "one GPU is assumed; --gpus says how many"
            self.differ(f"batch_size: of a GPU there, of all processes together here ({said})")
        if parts > 1:
            self.write("accumulate", parts, "gradient_acc")
            self.differ("gradient_acc: each part is a step there, for verbose and frequent as well; here all are one")
        half = self.get("fp16", bool)
        if half is not None:
            self.write("precision", "bfloat16" if half else "float32", "fp16")
            if half:
                self.differ("fp16: float16 with a scaled loss there, bfloat16 without one here")
        for key, ours in (("frequent", "log_every"), ("verbose", "evaluation.every")):
            steps = self.get(key, int)
            if steps is not None:
                self.write(ours, f"{max(self.at_least_one(key, steps) // parts, 1)} steps", key)

    def at_least_one(self, key: str, value: int) -> int:
        if value < 1:
            raise ConfigError(f"{self.at(key)}: config.{key} must be at least 1, got {value}")
        return value

    def rest(self) -> None:
        """Every key has been taken, or is named here."""
        named = {remark.key for remark in self.made.to_fill_in}
        for key, known in self.found.keys.items():
            if key in _NO_COUNTERPART:
                self.made.no_counterpart.append(Remark(key, known.where, _NO_COUNTERPART[key]))
            elif key not in _PLACES:
                self.made.unknown.append(Remark(key, known.where, "no key of theirs that is known"))
            elif key == "lr_func" and "decay_epoch" in self.found.keys:
                self.made.no_counterpart.append(Remark(key, known.where, "decay_epoch is what is translated"))
            elif isinstance(known, NotRead) and _PLACES[key] not in named:
                self.fill_in(_PLACES[key], f"config.{key} is {known.why}", known.where)
            elif isinstance(known, Assigned) and known.value is None and key not in ("output", "vpl"):
                self.fill_in(_PLACES[key], f"config.{key} is None", known.where)
            elif key == "lr_func":
                self.fill_in("schedule", "config.lr_func says how the rate falls", known.where)
        for statement in self.found.statements:
            self.made.unknown.append(Remark("not followed", statement.where, statement.why))
