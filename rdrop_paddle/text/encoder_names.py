"""The names of BERT's tensors in other libraries and their layout, to this project's; and kinds of models that are no BERT.

Hugging Face's linear layers are [out, in], PaddleNLP's [in, out] as Paddle's own. Which of them a file is of is told by the
names of its layers, and not by its container.
"""

import re

from ..errors import UserError
from ..weights.loading import SourceWeights
from ..weights.naming import renamed

_SHARED = [
    (r"embeddings\.word_embeddings\.weight", "token_embedding.weight"),
    (r"embeddings\.position_embeddings\.weight", "position_embedding.weight"),
    (r"embeddings\.token_type_embeddings\.weight", "type_embedding.weight"),
    (r"pooler\.dense\.(weight|bias)", r"pooler.\1"),
    (r"classifier\.(weight|bias)", r"head.\1"),
]
_LAYER = r"encoder\.layer\.(\d+)\."
HUGGING_FACE = [
    *_SHARED,
    (r"embeddings\.LayerNorm\.(weight|bias)", r"embedding_norm.\1"),
    (_LAYER + r"attention\.self\.(q|k|v)(?:uery|ey|alue)\.(weight|bias)", r"layers.\1.self_attn.\2_proj.\3"),
    (_LAYER + r"attention\.output\.dense\.(weight|bias)", r"layers.\1.self_attn.out_proj.\2"),
    (_LAYER + r"attention\.output\.LayerNorm\.(weight|bias)", r"layers.\1.self_attn_layer_norm.\2"),
    (_LAYER + r"intermediate\.dense\.(weight|bias)", r"layers.\1.fc1.\2"),
    (_LAYER + r"output\.dense\.(weight|bias)", r"layers.\1.fc2.\2"),
    (_LAYER + r"output\.LayerNorm\.(weight|bias)", r"layers.\1.final_layer_norm.\2"),
]
_LAYERS = r"encoder\.layers\.(\d+)\."
PADDLENLP = [
    *_SHARED,
    (r"embeddings\.layer_norm\.(weight|bias)", r"embedding_norm.\1"),
    (_LAYERS + r"self_attn\.(q|k|v|out)_proj\.(weight|bias)", r"layers.\1.self_attn.\2_proj.\3"),
    (_LAYERS + r"linear([12])\.(weight|bias)", r"layers.\1.fc\2.\3"),
    (_LAYERS + r"norm1\.(weight|bias)", r"layers.\1.self_attn_layer_norm.\2"),
    (_LAYERS + r"norm2\.(weight|bias)", r"layers.\1.final_layer_norm.\2"),
]
_DROPPED = [
    (r"embeddings\.(?:position|token_type)_ids", "counts positions, no weight"),
    (r"cls\..*", "a head of the pretraining"),
]
_OLD_NORM = {"gamma": "weight", "beta": "bias"}  # of files that were made of TensorFlow's
_OTHERS = [
    ("RoBERTa", r"roberta\..*|lm_head\..*|classifier\.(?:dense|out_proj)\..*"),
    ("ELECTRA", r"electra\..*|embeddings_project\..*|(?:discriminator|generator)_(?:predictions|lm_head)\..*"),
    ("DeBERTa", r"deberta\..*|.*\brel_embeddings\..*|.*\.attention\.self\.(?:in|query|key|value)_proj\..*"),
    ("DistilBERT", r"distilbert\..*|transformer\.layer\.\d+\..*"),
    ("ALBERT", r"albert\..*|.*\bembedding_hidden_mapping_in\..*"),
    ("MPNet", r"mpnet\..*|.*\brelative_attention_bias\..*"),
    ("ERNIE", r"ernie\..*|embeddings\.task_type_embeddings\..*"),
]
_ROOTS = "|".join(["bert", *(family.lower() for family, _ in _OTHERS)])
# names that every one of them has; without these roots it would be taken for a BERT in a wrapper
ANCHOR = rf"(?:(?:{_ROOTS})\.)?embeddings\.word_embeddings\.weight|token_embedding\.weight"


def refuse_other_families(arrays, path):
    """Raises a UserError where the names of {name: array} are those of another kind of model than BERT, which it names."""
    for family, pattern in _OTHERS:
        for name in arrays:
            if re.fullmatch(pattern, name):
                raise UserError(f"{path} is of {family} by its tensor {name}, and the encoders here are BERT's: take a BERT's")


def from_bert(container, arrays, sha256):
    """SourceWeights of {name: array} under Hugging Face's or PaddleNLP's names, or None where it has no such layers."""
    short = {re.sub(r"^bert\.", "", name): name for name in arrays}
    if any(re.match(_LAYER, name) for name in short):
        label, names, turned = f"Hugging Face BERT {'.bin' if container == 'torch' else f'.{container}'}", HUGGING_FACE, True
    elif any(re.match(_LAYERS, name) for name in short):
        label, names, turned = "PaddleNLP BERT .pdparams", PADDLENLP, False
    else:
        return None
    weights = SourceWeights(label, sha256)
    for shortened, source in short.items():
        array, why = arrays[source], renamed(_DROPPED, shortened)
        name = renamed(names, re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda found: _OLD_NORM[found[0]], shortened))
        if why:
            weights.dropped[source] = why
        elif name is None:
            weights.unknown.append(source)
        elif turned and array.ndim == 2 and "embedding" not in name:
            weights.add(name, array.T, "transposed", source)
        else:
            weights.add(name, array, "loaded", source)
    return weights
