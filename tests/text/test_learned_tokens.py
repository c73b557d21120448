"""Which tokens a run has."""

from conftest import train_text

from rdrop_paddle.reporting.runlog import run_folder
from rdrop_paddle.text.translation import Translation


def test_a_run_without_a_checkpoint_learns_its_tokens_again(translation):
    begun = translation("data.vocabulary_size=40")
    folder = run_folder(begun.config)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("of other data, and read by nobody")
    assert begun.tokens.sizes == translation("data.vocabulary_size=40", "name=other").tokens.sizes


def test_a_run_with_a_checkpoint_keeps_its_tokens(translation, corpus):
    config = translation("train.steps=3", "train.save_every=1").config
    expected = train_text(Translation, config).task.tokens.to_json()
    for path in corpus.glob("train.*"):
        path.write_text("other words\n" * 30)
    assert Translation(config).tokens.to_json() == expected
