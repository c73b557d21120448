"""Convert weights between released formats; the target's suffix says which: .npz, .safetensors or .pdparams.

python tools/convert_weights.py ViT-B_16.npz vit_b16.safetensors
python tools/convert_weights.py cifar100-224_checkpoint.pdparams vit_b16_cifar100.safetensors
python tools/convert_weights.py output/vit_ti16_cifar100_rdrop/best.safetensors model.safetensors --float16

The source may be any ViT that tools/eval.py reads. .npz is Google's layout, .safetensors timm's names in torch's layout,
.pdparams PaddleClas's. There and back gives identical bytes for every tensor; with --float16 half of them, rounded. Weights
that tools/train.py has trained on text become a .safetensors of the same names. The names of the classes, the tokens and the
settings that are in the source's header, or in files beside it, go into the header of a .safetensors.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, console


def main():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("source", metavar="SOURCE", help="weight file or folder, or a bare name under RDROP_DATA")
    arguments.add_argument("target", metavar="TARGET")
    arguments.add_argument(
        "--heads", type=command_line.positive, help="for .npz: attention heads, where neither SOURCE nor a released ViT tells"
    )
    arguments.add_argument("--float16", action="store_true", help="round the numbers to 16 bits")
    arguments.add_argument("--sha256", help="what the source's must be")
    arguments.add_argument("--ema", action="store_true", help="take the average of the weights that SOURCE holds beside them")
    options = arguments.parse_args()
    if Path(options.target).exists():
        raise UserError(f"{options.target} exists already: choose another name")

    console.say("loading Paddle")
    from rdrop_paddle.config import data_root
    from rdrop_paddle.vision.weight_formats import read_weights, write_weights
    from rdrop_paddle.weights import belongings
    from rdrop_paddle.weights.loading import find_weights
    from rdrop_paddle.weights.report import Row, WeightReport

    source = find_weights(options.source, data_root())
    weights = read_weights(source, options.sha256, options.ema)
    rows = [
        Row(name, action, f"{origin} {list(weights.tensors[name].shape)}") for name, (action, origin) in weights.made.items()
    ]
    if options.float16:
        weights.halve()
    report = WeightReport(source, weights.format, weights.sha256, rows)
    found = belongings.every(source)
    write_weights(weights, options.target, options.heads, found)
    print(report.table())
    print(f"wrote {options.target}")
    if found and Path(options.target).suffix != ".safetensors":
        lost = " and ".join(f"{name}.json" for name in found)
        print(f"this format has no place for the names of the classes and the like: put {lost} of the run folder beside it")
    return 0


if __name__ == "__main__":
    command_line.run(main)
