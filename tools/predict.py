"""Use a model: name what is in images, translate text, summarise it, continue it, or label it.

python tools/predict.py -c configs/digits_quickstart.yaml --weights output/digits_quickstart/best.safetensors digit.png scans/
python tools/predict.py -c CONFIG --weights FILE photos/ --top 3 --json -
python tools/predict.py -c CONFIG --weights FILE cat.jpg --passes 20 --attention attention.png
echo "Ein Hund rennt." | python tools/predict.py -c configs/multi30k_deen_rdrop.yaml --weights FILE
python tools/predict.py -c CONFIG --weights FILE text.de --json translations.jsonl
python tools/predict.py -c configs/dialogsum_rdrop.yaml --weights FILE dialogues.txt
echo "Prince Andrew" | python tools/predict.py -c configs/war_and_peace_rdrop.yaml --weights FILE -o decode.temperature=0.8
printf "It rains.\tIt is wet.\n" | python tools/predict.py -c configs/minilm_rte_rdrop.yaml --weights FILE
python tools/predict.py -c CONFIG --weights FILE reviews.csv --passes 20 --json -

Images: the likeliest classes with their probabilities. With --passes N dropout stays on for N passes (Monte-Carlo dropout):
probabilities are their mean, with their standard deviation; the disagreement is the mean symmetric KL divergence between two
passes, which R-Drop trains to be small.

Translation and summarisation: one for each line of the files, or of standard input; an empty line for an empty one. --json
writes a line of JSON for each instead, with decode.beam translations or summaries at most and their scores.

Language modelling: each line goes on to its end, by draws as the section decode says; decode.temperature=0 takes the likeliest
token each time. --json tells prompt and continuation apart.

Understanding: for each line the likeliest class and its probability, or the number, with tabs between; an empty line for an
empty one. A model of pairs takes two texts with a tab between. A .tsv, .csv or .jsonl is a table with the columns of the
config; its label need not be there. --json and --passes as for images, a line of JSON for each.

Exit status: 0; 1 when some image cannot be read, which is named and skipped; 2 for bad usage, config, weights or text.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, load_config, tasks
from rdrop_paddle.durability import files


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("inputs", nargs="*", metavar="INPUT", help="images, folders of them, or files of text")
    command_line.add_weights(arguments)
    arguments.add_argument("--top", type=command_line.positive, metavar="N", help="classes of each (default 5, in lines 1)")
    arguments.add_argument(
        "--passes", type=command_line.positive, metavar="N", help="passes with dropout, 2 or more; not of translators"
    )
    arguments.add_argument("--json", metavar="FILE", help="write the result there; - prints it, and nothing else")
    arguments.add_argument("--attention", metavar="PICTURE", help="draw what the model attends to in the first input")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)
    return OF_TASK[config.task](config, options)


def loaded(config, options):
    """The task with its trained weights, whose report goes to stderr."""
    task, report = tasks.trained(config, options.weights, sha256=options.sha256, ema=options.ema)
    kept = [options.config, options.weights, *options.inputs]
    for option, path, other in (("--json", options.json, options.attention), ("--attention", options.attention, None)):
        if path and path != "-":  # not after minutes of work
            command_line.check_writable(option, path, [*kept, other])
    print(report, file=sys.stderr, flush=True)
    return task


def write_or_print(text, path):
    if path == "-":
        print(text, end="")
    else:
        with files.writing(path):
            Path(path).write_text(text, encoding="utf-8")


def name_images(config, options):
    from rdrop_paddle.vision import attention_rollout, prediction
    from rdrop_paddle.vision.image_files import open_image

    if not options.inputs:
        raise UserError("no images: name image files, or folders that are searched for them")
    if options.attention and Path(options.attention).suffix.lower() not in attention_rollout.SUFFIXES:
        raise UserError(f"--attention {options.attention}: give a name that ends in {', '.join(attention_rollout.SUFFIXES)}")
    paths, top = prediction.find_images(options.inputs), options.top or 5
    task = loaded(config, options)
    class_names = task.class_names()
    found = []
    for answer in prediction.predict(task, paths, options.passes):
        found.append(answer)
        if answer.error:
            print(f"error: {answer.error}", file=sys.stderr, flush=True)
        elif options.json != "-":
            print(prediction.table(answer, class_names, top), flush=True)
    if options.json:
        images = [prediction.as_json(answer, class_names, top) for answer in found]
        result = {"weights": options.weights, "passes": options.passes, "images": images}
        write_or_print(json.dumps(result, indent=2) + "\n", options.json)
    first = next((answer.path for answer in found if not answer.error), None)
    if options.attention and first:
        shares = attention_rollout.rollout(task.model, prediction.model_input(task, first))
        with files.writing(options.attention):
            attention_rollout.overlay(open_image(first), shares).save(options.attention)
    return 1 if any(answer.error for answer in found) else 0


def read_standard_input():
    if sys.stdin is None:
        raise UserError("standard input is closed: name files of text")
    return sys.stdin.buffer.read()


def read_input(options):
    """The lines of the files, or else of standard input."""
    from rdrop_paddle.text.parallel import lines_of, read_lines

    named = [line for name in options.inputs for line in read_lines(Path(name))]
    return named if options.inputs else lines_of(read_standard_input(), "standard input")


def write_lines(rows, lines, options):
    """The rows as lines of JSON where --json says, and the lines unless standard output has the rows."""
    if options.json:
        write_or_print("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), options.json)
    if options.json != "-":
        print("".join(f"{line}\n" for line in lines), end="", flush=True)


def generate_lines(config, options):
    words = {"translation": ("translating", "translations"), "summarisation": ("summarising", "summaries")}
    doing, answers = words[config.task]
    if options.top or options.passes:
        raise UserError(f"--top and --passes are for classifiers: decode.beam {answers} at most are in --json's lines")

    from rdrop_paddle.console import Patience
    from rdrop_paddle.reporting import plots
    from rdrop_paddle.text.attention_map import attention_map, drawing

    if options.attention:
        plots.check_suffix(options.attention)
    lines = read_input(options)
    task = loaded(config, options)
    task.tokens.say_unknown(lines)
    task.model.eval()
    found = task.generate(lines, Patience(f"{doing}: line", len(lines)).done)
    best = [[dict(text=one.text, score=one.score) for one in answers] for answers in found]
    rows = [{"source": line, answers: of_line} for line, of_line in zip(lines, best)]
    write_lines(rows, [best[0].text if best else "" for best in found], options)
    first = next((number for number, best in enumerate(found) if best), None)
    if options.attention and first is not None:
        source, target = found[first][0].source, found[first][0].tokens
        pieces = [task.tokens.pieces(side, ids) for side, ids in enumerate((source, target))]
        plots.save(drawing(attention_map(task.model, source, target), *pieces), options.attention)
    return 0


def label_texts(config, options):
    if options.attention:
        raise UserError("--attention is for images and translators")

    from rdrop_paddle.console import Patience
    from rdrop_paddle.text import classify

    texts, pairs = classify.read_inputs(options.inputs, config.data, read_standard_input)
    task = loaded(config, options)
    progress = Patience("labelling: text", len(texts)).done
    found, names = classify.classify(task, texts, pairs, passes=options.passes, progress=progress), task.class_names()
    given = [dict(text=text) for text in texts]
    given = given if pairs is None else [one | dict(text_pair=second) for one, second in zip(given, pairs)]
    rows = [classify.as_json(answer, names, options.top or 5, **one) for one, answer in zip(given, found)]
    write_lines(rows, [classify.line(answer, names, options.top or 1) for answer in found], options)
    return 0


def continue_lines(config, options):
    if options.top or options.passes or options.attention:
        raise UserError("--top, --passes and --attention are not for language models: see the section decode of the config")

    from rdrop_paddle.console import Patience

    prompts = read_input(options)
    task = loaded(config, options)
    task.tokens.say_unknown(prompts)
    task.model.eval()
    found = task.continue_text(prompts, Patience("continuing: text", len(prompts)).done)
    # GPT-2's texts have lines, of which a space is left here: a line in, a line out
    lines = [" ".join((one.prompt + one.continuation).splitlines()) for one in found]
    write_lines([one._asdict() for one in found], lines, options)
    return 0


OF_TASK = {
    "image_classification": name_images,
    "translation": generate_lines,
    "summarisation": generate_lines,
    "understanding": label_texts,
    "language_modelling": continue_lines,
}


if __name__ == "__main__":
    command_line.run(main)
