"""Export a model, and check that the files answer as the model does.

python tools/export.py -c configs/digits_quickstart.yaml --weights output/digits_quickstart/best.safetensors --output exported
python tools/export.py -c CONFIG --weights FILE --output FOLDER --onnx
python examples/inference.py exported digit.png
python tools/export.py -c configs/multi30k_deen_rdrop.yaml --weights FILE --output FOLDER --ctranslate2

Classifiers of images or texts: to Paddle's inference format, and with --onnx to ONNX (pip install -r requirements-onnx.txt),
with the same logits. Any number can be fed at once; FOLDER/description.json says how. Translators: to CTranslate2, the
fastest engine for them on a CPU (pip install -r requirements-ctranslate2.txt), with the same translations of the sentences of
eval.split. FOLDER must be new.

Exit status: 0; 1 when the answers differ (no FOLDER is left then); 2 for bad usage, config or weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, load_config, tasks


def main():
    arguments = command_line.config_parser(__doc__)
    command_line.add_weights(arguments)
    arguments.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new folder for the exported files")
    arguments.add_argument("--onnx", action="store_true", help="write inference.onnx too")
    arguments.add_argument("--ctranslate2", action="store_true", help="of a translator, for CTranslate2")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)
    if config.task == "summarisation":
        raise UserError("a summariser is not exported: use tools/predict.py, or summariser of hubconf.py")
    if config.task == "language_modelling":
        raise UserError(
            "a language model is not exported: of a text at once it would give logits, and to continue one a token at a time "
            "takes the state that tools/predict.py keeps"
        )
    of_translation = config.task == "translation"
    if of_translation != options.ctranslate2 or (of_translation and options.onnx):
        raise UserError("a translator is exported with --ctranslate2, and nothing else is: --onnx is for classifiers")

    import paddle

    paddle.set_device("cpu")  # what is compared must not depend on a card and its TF32
    passed = export_translator(config, options) if of_translation else export_classifier(config, options)
    if not passed:
        answers = "translations" if of_translation else "logits"
        print(f"error: the exported model gives other {answers}, so it was not kept", file=sys.stderr)
        return 1
    print(f"wrote {options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")
    return 0


def loaded(config, options):
    """(task with its trained weights, their report, which is printed)"""
    task, report = tasks.trained(config, options.weights, sha256=options.sha256, ema=options.ema)
    print(report, flush=True)
    return task, report


def export_classifier(config, options):
    from rdrop_paddle.training.export import check_request

    if config.task == "understanding":
        from rdrop_paddle.text.understanding_export import export
    else:
        from rdrop_paddle.vision.export import export
    check_request(options.output, options.onnx)
    task, report = loaded(config, options)
    checks = export(task, options.output, report, onnx=options.onnx)
    print("\n".join(map(str, checks)))
    return all(check.passed for check in checks)


def export_translator(config, options):
    from rdrop_paddle.text.ctranslate2_export import export_ctranslate2

    task, _ = loaded(config, options)
    task.model.eval()
    lines = task.pairs(config.eval.split).source
    check = export_ctranslate2(task.model, task.tokens, options.output, lines, config.decode)
    print(check)
    return check.passed


if __name__ == "__main__":
    command_line.run(main)
