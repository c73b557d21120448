"""A Transformer as a folder for CTranslate2, the fastest engine for it on a CPU, checked against the model itself.

The folder holds model.bin, config.json and the vocabularies as CTranslate2 reads them, and tokenizer.json for `Tokens`:

    translator = ctranslate2.Translator(folder)
    found = translator.translate_batch([tokens.pieces(0, ids) for ids in tokens.encode(0, lines)], beam_size=5)

Its search follows the rules of beam_search.py where `return_end_token` is set, so that the end counts in a hypothesis's
length, but for these: a hypothesis that comes to the maximum length is cut there instead of ended; tokens that a minimum length
or the ban on repeated n-grams forbids are taken out before the softmax instead of behind it; a length penalty of 0 stops the
search as soon as the best hypothesis has ended; and of more hypotheses than the beam is wide, when several end at once, the
best are listed, where ours lists those that ended first. The best of all is the same one.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import paddle

from ..durability import files
from ..errors import UserError
from .generation import search
from .tokens import BEGIN, END, FILE, SPECIAL, UNKNOWN
from .transformer_layers import ACTIVATIONS

BOUND = 1e-4  # of the difference between scores, and of what counts as a tie
AT_ONCE = 64  # sentences of one length that are compared together


@dataclass(frozen=True)
class Check:
    """CTranslate2's best translations against the model's."""

    same: int  # sentences with the same one
    tied: int  # with another one of the same score, up to BOUND
    different: int
    cut: int  # that come to the maximum length, where the rules differ
    score_difference: float  # the largest of the same translations

    @property
    def passed(self):
        return self.same > 0 == self.different and self.score_difference <= BOUND  # not so for NaN

    def __str__(self):
        verdict = "PASS" if self.passed else "FAIL"
        found = f"{self.same} translations the same, {self.tied} tied, {self.different} different, {self.cut} not compared"
        return f"CTranslate2  {found}, scores within {self.score_difference:.1e}, bound {BOUND:.0e}  {verdict}"


def export_ctranslate2(model, tokens, folder, lines, decode):
    """Write `folder`, which is there when the check passed and not otherwise; returns the Check.

    Args:
        model: a Transformer in evaluation mode, and its Tokens.
        lines: sentences of the source language to check with, 200 or more.
        decode: a DecodeConfig, of which the check takes beam, length penalty and maximum length.

    Raises:
        UserError: the folder exists already or cannot be written, or the model's embeddings are as BART has them.
    """
    if model.encoder.scale == 1 or hasattr(model.encoder.embedding_norm, "weight"):
        raise UserError(
            "a translator with BART's embeddings is not exported: train with model.scaled=true model.embedding_norm=false"
        )
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another name")
    unfinished = folder.with_name(folder.name + files.UNFINISHED)
    with files.writing(folder):
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
        unfinished.mkdir(parents=True)
        try:
            write(model, tokens, unfinished)
            found = check(model, tokens, unfinished, lines, decode)
            if found.passed:
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return found


def write(model, tokens, folder):
    """Write the model and its tokens into `folder`, an existing Path."""
    specification = specify(model)
    for side, register in enumerate((specification.register_source_vocabulary, specification.register_target_vocabulary)):
        register(tokens.pieces(side, range(tokens.sizes[side])))
    config = specification.config
    config.bos_token, config.eos_token, config.unk_token = SPECIAL[BEGIN], SPECIAL[END], SPECIAL[UNKNOWN]
    config.decoder_start_token, config.add_source_eos = SPECIAL[END], True  # as `search` has it
    config.layer_norm_epsilon = model.encoder.layers[0].final_layer_norm._epsilon
    specification.validate()
    specification.optimize()  # tied tables are kept once
    specification.save(str(folder))
    files.write_file(folder / FILE, files.json_bytes(tokens.to_json()))


def specify(model):
    """The weights of a Transformer in the places where CTranslate2 has them."""
    from ctranslate2.specs import TransformerSpec, common_spec

    layers, first = (model.encoder.layers, model.decoder.layers), model.encoder.layers[0]
    (activation,) = [name for name, function in ACTIVATIONS.items() if function is first.activation]
    settings = dict(pre_norm=first.norm_first, activation=common_spec.Activation[activation.upper()])
    specification = TransformerSpec.from_config([*map(len, layers)], first.self_attn.num_heads, **settings)
    source, target = model.source_embedding, model.target_embedding or model.source_embedding
    specification.encoder.embeddings[0].weight, specification.decoder.embeddings.weight = _array(source), _array(target)
    specification.decoder.projection.weight = model.output_weight.numpy()
    for place, stack in ((specification.encoder, model.encoder), (specification.decoder, model.decoder)):
        place.position_encodings.encodings = stack.embed_positions.numpy()
        if first.norm_first:
            _set_norm(place.layer_norm, stack.layer_norm)
        for place_of_layer, layer in zip(place.layer, stack.layers):
            _set_layer(place_of_layer, layer)
    return specification


def _set_layer(place, layer):
    _set_linears(place.self_attention.linear, [["q_proj", "k_proj", "v_proj"], ["out_proj"]], layer.self_attn)
    _set_norm(place.self_attention.layer_norm, layer.self_attn_layer_norm)
    if hasattr(place, "attention"):
        _set_linears(place.attention.linear, [["q_proj"], ["k_proj", "v_proj"], ["out_proj"]], layer.encoder_attn)
        _set_norm(place.attention.layer_norm, layer.encoder_attn_layer_norm)
    _set_linears([place.ffn.linear_0, place.ffn.linear_1], [["fc1"], ["fc2"]], layer)
    _set_norm(place.ffn.layer_norm, layer.final_layer_norm)


def _set_linears(places, names, part):
    for place, group in zip(places, names):
        linears = [getattr(part, name) for name in group]
        place.weight = np.concatenate([_array(linear).T for linear in linears])  # [out, in]
        place.bias = np.concatenate([linear.bias.numpy() for linear in linears])


def _set_norm(place, norm):
    place.gamma, place.beta = _array(norm), norm.bias.numpy()


def _array(layer):
    return layer.weight.numpy()


def check(model, tokens, folder, lines, decode):
    """The Check of the model in `folder` on those of `lines` that are not empty and fit into the model.

    It is made without a minimum length and with repeated n-grams, whose rules differ.
    """
    decode = replace(decode, min_length=0, no_repeat_ngram=0)
    by_length = {}
    for source in tokens.encode(0, lines):
        if 0 < len(source) < model.max_length:
            by_length.setdefault(len(source), []).append(source)
    translator = load(folder)
    outcomes, differences = dict(same=0, tied=0, different=0, cut=0), [0.0]
    for length, sources in sorted(by_length.items()):
        limit = int(min(decode.max_length_a * (length + 1) + decode.max_length_b, model.max_length - 1))
        for start in range(0, len(sources), AT_ONCE):
            part = sources[start : start + AT_ONCE]
            theirs = translate(translator, [tokens.pieces(0, source) for source in part], decode, limit)
            ours = search(model, paddle.to_tensor([[*source, END] for source in part]), decode)
            for (best, *others), (pieces, score) in zip(ours, theirs):
                difference = abs(best.score - score)
                if any(len(one.tokens) == limit for one in (best, *others)):
                    outcomes["cut"] += 1
                elif tokens.pieces(1, [*best.tokens, END]) == pieces:
                    outcomes["same"] += 1
                    differences.append(difference)
                else:
                    outcomes["tied" if difference <= BOUND else "different"] += 1
    return Check(**outcomes, score_difference=float(np.max(differences)))


def load(folder):
    """CTranslate2's Translator of the model in `folder`, on the CPU in float32."""
    import ctranslate2

    threads = int(os.environ.get("OMP_NUM_THREADS", 1))
    return ctranslate2.Translator(str(Path(folder)), device="cpu", compute_type="float32", intra_threads=threads)


def translate(translator, sources, decode, limit):
    """[(pieces, score)] of the best translations of sources given by their pieces, of at most `limit` pieces before the end.

    The pieces end with that, but for those of a translation that was cut.
    """
    found = translator.translate_batch(
        sources,
        beam_size=decode.beam,
        length_penalty=decode.length_penalty or 1e-9,  # with 0 it would stop by another rule
        min_decoding_length=decode.min_length,
        max_decoding_length=limit + 1,
        max_input_length=0,
        return_scores=True,
        return_end_token=True,
    )
    return [(one.hypotheses[0], one.scores[0]) for one in found]
