"""A YAML file → what a training run is made of."""

import inspect
import os
import reprlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError

from .audio import first_line
from .augmentation import Augmentation
from .configuration_bilstm import BiLstmConfig
from .configuration_resnet_bigru import ResNetBiGruConfig
from .feature_extraction_log_mel import LogMelFeatureExtractor
from .model_card import WORDS
from .text import TextNormalizer

short = reprlib.Repr()  # for messages: YAML's references can make a value that is endless when it is written out
short.maxlevel = 2

STREAM_WITHOUT_MEANS = "features.normalize_by_speaker: expected a corpus that is no stream, a mean is of all clips"
CONFIGS = {"ctc": ResNetBiGruConfig, "classification": BiLstmConfig}


@dataclass
class Recipe:
    """
    What a training run is made of; a YAML file has the same keys.

    Args:
        corpus: what `read_corpus` or, for a classifier, `read_labelled_corpus` takes.
        task: "ctc", a recogniser, or "classification", one label an utterance.
        train_split: the part to train on.
        streaming: whether a Hub data set is streamed rather than downloaded first; the training arguments then have to
            say `max_steps`.
        held_out: speakers held out of it to choose by: a file with one a line (relative to the recipe), a share such
            as 0.1; or the name of another part of the corpus ("validation"); or nothing, in which case all is trained
            on and the last weights are kept.
        exclude_speakers: speakers that are neither trained on nor chosen by.
        model_name_or_path: start from this checkpoint instead of from nothing; a classifier may also start from a
            plain PyTorch state dict (.pth). Its sizes and features stand; dropouts and the like (`REGULARIZATION`) are
            those of `model` where it names them.
        vocabulary: "char", "bpe:SIZE"; when starting from a checkpoint also "keep" (the default there) or "extend".
        lexicon: a file of how words are said (relative to the recipe), as `read_lexicon` reads it: the model gets a
            second head for phones, see `ResNetBiGruConfig.phones`.
        normalizer, model, features, augmentation: arguments of `TextNormalizer`, `ResNetBiGruConfig` or
            `BiLstmConfig`, `LogMelFeatureExtractor` and `Augmentation` that differ from their defaults.
        card: what the model card says of the model and its data, see `model_card.WORDS`.
        curriculum_epochs: so many epochs first hear the utterances as they are, without augmentation, and the first of
            them from the shortest to the longest: CTC then leaves its plateau of blanks several times sooner (the order
            is SortaGrad: Amodei et al., 2016, "Deep Speech 2").
        early_stopping_patience: evaluations without a better WER or accuracy after which to stop.
        training: arguments of transformers' `TrainingArguments`.
    """

    corpus: str
    task: str = "ctc"
    train_split: str | None = None
    streaming: bool = False
    held_out: str | float | None = None
    exclude_speakers: list[str] | None = None
    model_name_or_path: str | None = None
    vocabulary: str | None = None
    lexicon: str | None = None
    normalizer: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] | None = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    curriculum_epochs: int = 0
    early_stopping_patience: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    @property
    def has_held_out(self) -> bool:
        """Whether there is a part to choose by."""
        return self.held_out not in (None, "", "none", 0)

    def __post_init__(self):
        self._check_values()
        if self.task not in CONFIGS:
            raise ValueError(f"expected the task 'ctc' or 'classification', got {self.task!r}")
        if self.task == "classification" and (self.vocabulary or self.normalizer or self.lexicon):
            raise ValueError("a vocabulary, a lexicon and a normalizer are for recognisers: a classifier has labels")
        config_class = CONFIGS[self.task]
        # What follows from the rest is no part of a recipe.
        derived = {
            "vocab_size",
            "num_mel_bins",
            "hop_length",
            "text_normalizer",
            "pad_token_id",
            "input_size",
            "phones",
        }
        figures = {"feature_mean", "feature_std", "kwargs"}
        known = {
            "normalizer": set(inspect.signature(TextNormalizer).parameters),
            "model": config_class.__annotations__.keys() - derived,
            "features": inspect.signature(LogMelFeatureExtractor).parameters.keys() - figures,
            "augmentation": set(inspect.signature(Augmentation).parameters),
            "card": set(WORDS),
        }
        for section in (*known, "training"):
            values = getattr(self, section)
            if values is None:
                if section != "augmentation":  # none at all is not its defaults
                    setattr(self, section, {})
                continue
            if not isinstance(values, dict):
                raise ValueError(f"expected {section} to be a section (names and values), got {short.repr(values)}")
            names = known.get(section, set(values))  # `training_arguments` looks after its own
            if unknown := sorted(map(str, set(values) - names)):
                raise ValueError(
                    f"the section {section} has no {', '.join(unknown)}; it has {', '.join(sorted(names))}"
                )
        if self.features.get("normalize_by_speaker"):
            if self.task == "ctc":
                raise ValueError(
                    "features.normalize_by_speaker is for classifiers, a recogniser takes speakers as they come"
                )
            if self.streaming:
                raise ValueError(STREAM_WITHOUT_MEANS)
        try:
            config_class(**self.model)
        except StrictDataclassError as error:
            raise ValueError(f"the section model: {error.__cause__}") from None

    def _check_values(self) -> None:
        if self.exclude_speakers is not None:
            if not isinstance(self.exclude_speakers, list):
                came = short.repr(self.exclude_speakers)
                raise ValueError(f"expected exclude_speakers to be a list ([ann, bob]), got {came}")
            self.exclude_speakers = [str(name) for name in self.exclude_speakers]  # YAML takes 1272 for a number
        whole_numbers = {"curriculum_epochs": self.curriculum_epochs}
        if self.early_stopping_patience is not None:
            whole_numbers["early_stopping_patience"] = self.early_stopping_patience
        for name, value in whole_numbers.items():
            if type(value) is not int or value < 0:
                raise ValueError(f"expected {name} to be a whole number, got {short.repr(value)}")

    def path_of(self, name: str) -> Path:
        """A file that the recipe names: beside the recipe, or from where the command runs."""
        return next((path for path in (self.folder / name, Path(name)) if path.is_file()), Path(name))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike, overrides: dict[str, Any] | None = None) -> "Recipe":
        """
        Read a recipe.

        Args:
            path: the YAML file.
            overrides: values that replace the file's; `{"model.hidden_size": 256}` reaches into a section.

        Raises:
            ValueError: for a file that is not a recipe, or a key that no recipe has.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        # ValueError: not UTF-8, or the 99th of a month; RecursionError: brackets within brackets.
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"{path}: not a recipe that can be read ({first_line(error)})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a recipe (YAML keys and values), got {type(values).__name__}")
        for name, value in (overrides or {}).items():
            section, _, key = name.partition(".")
            if key:
                if not isinstance(values.get(section), dict | None):
                    raise ValueError(f"{path}: expected {section} to be a section for --{name}, it is a value")
                values[section] = {**(values.get(section) or {}), key: value}
            else:
                values[section] = value
        known = {f.name for f in fields(cls)} - {"folder"}
        if unknown := sorted(map(str, set(values) - known)):
            raise ValueError(f"{path}: a recipe has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if not values.get("corpus"):
            raise ValueError(f"{path}: expected a corpus, the recipe names none")
        for name in ("corpus", "task", "train_split", "model_name_or_path", "vocabulary", "lexicon"):
            if not isinstance(values.get(name), str | None):
                raise ValueError(f"{path}: expected {name} to be text, got {short.repr(values[name])}")
        try:
            return cls(**values, folder=Path(path).parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def split_recipe_options(arguments: list[str]) -> tuple[dict, list[str]]:
    """Part `--section.key value` and `--key value` of a recipe (read as YAML) from everything else."""
    keys = {f.name for f in fields(Recipe)}
    options, rest, remaining = {}, [], iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        key = name[2:].replace("-", "_")
        if not (name.startswith("--") and ("." in key or key in keys)):
            rest.append(argument)
            continue
        given = value if equals else next(remaining, None)
        if given is None:
            raise ValueError(f"{name}: expected a value")
        try:
            options[key] = yaml.safe_load(given)
        except (ValueError, yaml.YAMLError, RecursionError):
            raise ValueError(f"{name}: expected a YAML value, got {given!r}") from None
    return options, rest
