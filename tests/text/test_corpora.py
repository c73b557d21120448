"""The corpora, fetched from a (local) server where made files lie as the real ones do."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from rdrop_paddle import UserError
from rdrop_paddle.text import corpora
from rdrop_paddle.text.translation_config import ParallelDataConfig


def section(name, **changes):
    defaults = dict(path="", source="de", target="en", lowercase=False, moses=False, vocabulary="joint", vocabulary_size=100)
    return ParallelDataConfig(**{**defaults, "name": name, "max_tokens": 100, "sentences": None, **changes})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """RDROP_DATA"""
    monkeypatch.setenv("RDROP_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def multi30k(server, monkeypatch):
    """{name: lines} of a small one on the server."""
    lines = {name: [f"{name} {number}" for number in range(3)] for name in corpora.MULTI30K_SHA256}
    contents = {name: "".join(f"{line}\n" for line in found).encode() for name, found in lines.items()}
    for name, content in contents.items():
        (server.folder / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(corpora, "MULTI30K", server.url)
    monkeypatch.setattr(corpora, "MULTI30K_SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    return lines


def read(config):
    return {split: corpora.read_split(config, split) for split in ("train", "val", "test")}


def test_multi30k_is_downloaded_once_and_verified(multi30k, server, cache, capfd):
    found = read(section("multi30k"))
    names = {"train": "train", "val": "val", "test": "test_2016_flickr"}
    assert found == {split: (multi30k[f"{name}.de"], multi30k[f"{name}.en"]) for split, name in names.items()}
    assert {path.name for path in (cache / "multi30k").iterdir()} == {*multi30k}
    assert f"downloading {server.url}/train.de.gz" in capfd.readouterr().err
    for path in server.folder.iterdir():
        path.unlink()
    assert read(section("multi30k")) == found
    other_way = corpora.read_split(section("multi30k", source="en", target="de"), "val")
    assert other_way == (found["val"].target, found["val"].source)


def test_a_chosen_number_of_pairs_is_for_training_alone(multi30k):
    found = read(section("multi30k", sentences=2))
    assert [len(found[split].source) for split in ("train", "val", "test")] == [2, 3, 3]


def test_a_failed_download_says_which_file_to_put_where(multi30k, server, cache, monkeypatch, capfd):
    packed = server.folder / "val.de.gz"
    content = packed.read_bytes()
    packed.unlink()
    place = cache / "multi30k" / "val.de.gz"
    with pytest.raises(UserError, match=f"could not download .*/val.de.gz .*404.*: put val.de.gz at {place}$") as error:
        read(section("multi30k"))
    assert "\n" not in str(error.value)
    place.write_bytes(content)  # as the message says
    capfd.readouterr()
    assert corpora.read_split(section("multi30k"), "val").source == multi30k["val.de"]
    assert "val.de.gz" not in capfd.readouterr().err
    monkeypatch.setattr(corpora, "MULTI30K", "http://127.0.0.1:9")
    (cache / "multi30k" / "train.de").unlink()
    with pytest.raises(UserError, match=r"could not download http://127.0.0.1:9/train.de.gz .*: put train.de.gz at "):
        read(section("multi30k"))


@pytest.mark.parametrize(
    "content, said",
    [
        (gzip.compress(b"another text\n"), r"train.de.gz holds another text \(sha256 .*\): remove it and start again"),
        (gzip.compress(b"Ein Hund.\n" * 99)[:-12], r"train.de.gz is damaged \(.*\): remove it and start again"),
        (b"<html>", r"train.de.gz is damaged \(Not a gzipped file .*\): remove it and start again"),
    ],
    ids=["another", "cut", "no archive"],
)
def test_a_download_that_is_not_as_it_was_published_is_refused(multi30k, server, cache, content, said):
    good = (server.folder / "train.de.gz").read_bytes()
    (server.folder / "train.de.gz").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(section("multi30k"))
    assert not (cache / "multi30k" / "train.de").exists()
    (server.folder / "train.de.gz").write_bytes(good)
    (cache / "multi30k" / "train.de.gz").unlink()  # as the message says
    assert read(section("multi30k"))["train"].source == multi30k["train.de"]


TRAIN = [  # German, English, whether it stays
    ("<url>http://a</url>", "<url>http://a</url>", False),
    ("<keywords>a, b</keywords>", "<keywords>c</keywords>", False),
    ("<talkid>1</talkid>", "<talkid>1</talkid>", False),
    ("<title>Ein Titel</title>", "<title>A title</title>", "Ein Titel"),
    ("<description>TED Talk Untertitel: Ein Hund</description>", "<description>TED Talk Subtitles: A dog</description>",
     "TED Talk Untertitel: Ein Hund"),
    ("Das ist  gut. ", " That's good.", "Das ist  gut."),
    ("", "Nothing.", False),
    ("", "", False),
    ("eins zwei", "one two three", "eins zwei"),  # 1.5 times as long
    ("eins", "one two", False),  # twice as long
    ("Ja, ja!", "Yes yes", False),  # 4 words to 2, with Moses
    ("Wort " * 175, "word " * 175, ("Wort " * 175).strip()),
    ("Wort " * 176, "word " * 176, False),
]  # fmt: skip
FILLER = 50


@pytest.fixture
def iwslt14(server, monkeypatch):
    """build(**changes): put a small archive on the server; a change replaces a member's text, or removes it by None."""

    def build(**changes):
        texts = {}
        for side, language in enumerate(("de", "en")):
            lines = [row[side] for row in TRAIN] + [f"{language} {number}" for number in range(FILLER)]
            texts[f"train.tags.de-en.{language}"] = "".join(f"{line}\n" for line in lines)
            for test in corpora.IWSLT14_TESTS:
                segments = "".join(f'<seg id="{n}"> {test} isn\u2019t {language} &amp; {n} </seg>\n' for n in (1, 2))
                texts[f"IWSLT14.{test}.de-en.{language}.xml"] = f'<?xml version="1.0"?>\n<title>no</title>\n{segments}</doc>\n'
        with tarfile.open(server.folder / "de-en.tgz", "w:gz") as tar:
            for name, text in {**texts, "README": "\udcff", **changes}.items():
                if text is not None:
                    content = text.encode(errors="surrogateescape")
                    member = tarfile.TarInfo(f"de-en/{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        monkeypatch.setattr(corpora, "IWSLT14", f"{server.url}/de-en.tgz")

    return build


def test_iwslt14_is_prepared_as_the_official_script_does(iwslt14, server, cache, capfd):
    iwslt14()
    found = read(section("iwslt14"))
    kept = [row[2] for row in TRAIN if row[2]] + [f"de {number}" for number in range(FILLER)]
    assert found["val"].source == kept[22::23] and len(found["val"].source) == 2
    assert found["train"].source == [line for line in kept if line not in found["val"].source]
    for split in ("train", "val"):
        pairs = [pair for pair in zip(*found[split]) if pair[0].startswith("de ")]
        assert pairs and all(source[3:] == target[3:] for source, target in pairs)
    for side, language in enumerate(("de", "en")):
        expected = [f"{test} isn't {language} &amp; {n}" for test in corpora.IWSLT14_TESTS for n in (1, 2)]
        assert found["test"][side] == expected
    said = capfd.readouterr().err
    assert "train: 53 pairs, where the official script finds 160,239" in said
    (server.folder / "de-en.tgz").unlink()
    assert read(section("iwslt14")) == found and "preparing" not in capfd.readouterr().err  # once


def test_iwslt14_is_prepared_from_an_archive_that_lies_there(iwslt14, server, cache, monkeypatch):
    iwslt14()
    monkeypatch.setattr(corpora, "IWSLT14", "http://127.0.0.1:9/de-en.tgz")
    with pytest.raises(UserError, match=f"could not download .*: put de-en.tgz at {cache / 'de-en.tgz'}$"):
        read(section("iwslt14"))
    (server.folder / "de-en.tgz").rename(cache / "de-en.tgz")
    assert len(read(section("iwslt14"))["val"].source) == 2


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"train.tags.de-en.en": None}, "no member train.tags.de-en.en; get the archive from http"),
        ({"IWSLT14.TEDX.dev2012.de-en.de.xml": None}, "no member IWSLT14.TEDX.dev2012.de-en.de.xml"),
        ({"train.tags.de-en.en": "one\ntwo\n"}, "60 and 2 lines in its two languages"),
        ({"IWSLT14.TED.tst2010.de-en.en.xml": '<seg id="1">one</seg>\n'}, "10 and 9 lines in its two languages"),
    ],
    ids=["no training text", "no test", "another number of lines", "another number of segments"],
)
def test_an_archive_with_other_members_is_refused(iwslt14, cache, changes, said):
    iwslt14(**changes)
    with pytest.raises(UserError, match=said) as error:
        read(section("iwslt14"))
    assert str(cache / "de-en.tgz") in str(error.value) and not (cache / "iwslt14").exists()


@pytest.mark.parametrize("damaged", [lambda content: content[:9], lambda content: content[:400], lambda content: b"<html>"])
def test_a_damaged_archive_is_refused(iwslt14, server, cache, damaged):
    iwslt14()
    cache.mkdir()
    (cache / "de-en.tgz").write_bytes(damaged((server.folder / "de-en.tgz").read_bytes()))
    with pytest.raises(UserError, match=r"de-en.tgz: damaged archive \(.*\); get it again from http") as error:
        read(section("iwslt14"))
    assert "\n" not in str(error.value)


def test_an_archive_of_another_encoding_is_refused(iwslt14, server):
    iwslt14(**{"train.tags.de-en.de": "\udce4"})
    with pytest.raises(UserError, match=r"de-en.tgz: damaged archive \('utf-8' codec can't decode .*\)"):
        read(section("iwslt14"))


def test_a_changed_folder_is_not_prepared_over(iwslt14, cache):
    iwslt14()
    read(section("iwslt14"))
    (cache / "iwslt14" / "train.de").write_text("mine\n")
    with pytest.raises(UserError, match=r"iwslt14 is not as it was prepared \(train.de has 5 bytes instead of .*\): remove it"):
        read(section("iwslt14"))
    assert (cache / "iwslt14" / "train.de").read_text() == "mine\n"


@pytest.mark.parametrize(
    "config, said",
    [
        (section("multi30k", target="fr"), "data.target is fr but multi30k has de and en"),
        (section("iwslt14", source="fr"), "data.source is fr but iwslt14 has de and en"),
        (section("folder"), "data.path is empty: set data.path=FOLDER"),
        (section("folder", path="absent"), "data.path absent is no folder: give one with train, val and test .de and .en"),
        (
            section("wmt14"),
            "wmt14 is not there: prepare WMT14 with fairseq's prepare-wmt14en2de.sh .*test .de and",
        ),
    ],
    ids=["multi30k", "iwslt14", "no path", "no folder", "wmt14"],
)
def test_what_cannot_be_found_is_said(config, said):
    with pytest.raises(UserError, match=said):
        read(config)


@pytest.mark.parametrize("name", ["folder", "wmt14", "multi30k"])
def test_a_folder_of_ones_own_is_read_as_it_is(tmp_path, name):
    for split in ("train", "valid", "test"):
        for language in ("fr", "it"):
            (tmp_path / f"{split}.{language}").write_text(f"{split} {language}\n")
    found = read(section(name, path=str(tmp_path), source="fr", target="it"))
    assert found["val"] == (["valid fr"], ["valid it"]) and found["train"] == (["train fr"], ["train it"])


@pytest.mark.real
def test_the_real_multi30k(monkeypatch, cache):
    monkeypatch.undo()
    folder = Path(os.environ.get("RDROP_DATA") or "~/.cache/rdrop").expanduser() / "multi30k"
    if not folder.is_dir():
        pytest.skip(f"multi30k is not in {folder.parent} (RDROP_DATA)")
    for name, expected in corpora.MULTI30K_SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
    found = read(section("multi30k"))
    assert [len(found[split].source) for split in ("train", "val", "test")] == [29_000, 1_014, 1_000]
    assert found["train"].source[0].startswith("Zwei junge weiße Männer") and found["train"].target[0].startswith("Two young")
