"""The official files of GLUE, arXiv 1804.07461: tab-separated, quotes being letters, and `dev` the part that is tested on."""

from typing import Dict, NamedTuple, Optional, Tuple

ARCHIVES = "https://dl.fbaipublicfiles.com/glue/data"


class Dataset(NamedTuple):
    folder: str  # of its files, as the official archives name it
    address: str  # where they are to be had
    text: str  # names of columns
    text_pair: Optional[str]
    label: str
    classes: Optional[Tuple[str, ...]]  # None: the labels are numbers
    columns: Optional[Tuple[str, ...]] = None  # of files whose first line does not name them
    tests: Dict[str, str] = {"test": "dev"}  # {a split that is tested on: its file}  # noqa: RUF012


DATASETS = {
    "cola": Dataset(
        "CoLA", f"{ARCHIVES}/CoLA.zip", "sentence", None, "label", ("0", "1"), columns=("source", "label", "mark", "sentence")
    ),
    "sst2": Dataset("SST-2", f"{ARCHIVES}/SST-2.zip", "sentence", None, "label", ("0", "1")),
    "mrpc": Dataset("MRPC", "https://gluebenchmark.com/tasks", "#1 String", "#2 String", "Quality", ("0", "1")),
    "stsb": Dataset("STS-B", f"{ARCHIVES}/STS-B.zip", "sentence1", "sentence2", "score", None),
    "qqp": Dataset("QQP", f"{ARCHIVES}/QQP-clean.zip", "question1", "question2", "is_duplicate", ("0", "1")),
    "mnli": Dataset(
        "MNLI",
        f"{ARCHIVES}/MNLI.zip",
        "sentence1",
        "sentence2",
        "gold_label",
        ("contradiction", "entailment", "neutral"),
        tests={"test": "dev_matched", "test_mismatched": "dev_mismatched"},
    ),
    "qnli": Dataset("QNLI", f"{ARCHIVES}/QNLIv2.zip", "question", "sentence", "label", ("entailment", "not_entailment")),
    "rte": Dataset("RTE", f"{ARCHIVES}/RTE.zip", "sentence1", "sentence2", "label", ("entailment", "not_entailment")),
}
