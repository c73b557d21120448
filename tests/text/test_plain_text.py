"""Plain text in its folders, and WikiText-103, fetched from a (local) server where a made archive lies as the real one does."""

import gzip
import hashlib
import io
import zipfile

import pytest

from rdrop_paddle import UserError, load_config
from rdrop_paddle.text import plain_text

TEXT = {"train": "a b\n\n c \n", "valid": "d\n", "test": "e <unk>\n"}


def section(name, path="", break_mode="none"):
    return load_config(
        None, ["task=language_modelling", f"data.name={name}", f"data.path={path}", f"data.break_mode={break_mode}"]
    ).data


def read(config):
    return {split: plain_text.read_split(config, split) for split in ("train", "val", "test")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """RDROP_DATA"""
    monkeypatch.setenv("RDROP_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wikitext(server, monkeypatch):
    """wikitext(member="text", ...): put an archive with these changes on the server; None removes a member."""

    def publish(**changes):
        members = {f"wikitext-103/wiki.{name}.tokens": text for name, text in TEXT.items()}
        members |= {f"wikitext-103/wiki.{name}.tokens": text for name, text in changes.items()}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, text in members.items():
                if text is not None:
                    archive.writestr(name, text)
        return put(packed.getvalue())

    def put(content):
        (server.folder / "wikitext.zip").write_bytes(content)
        monkeypatch.setattr(plain_text, "WIKITEXT103", f"{server.url}/wikitext.zip")
        monkeypatch.setattr(plain_text, "WIKITEXT103_SHA256", hashlib.sha256(content).hexdigest())

    publish.put = put
    return publish


def test_wikitext103_is_downloaded_once_and_read_from_its_folder(wikitext, server, cache):
    wikitext()
    found = read(section("wikitext103"))
    assert found == {"train": ["a b", "", "c"], "val": ["d"], "test": ["e <unk>"]}
    names = {f"wiki.{name}.tokens" for name in ("train", "valid", "test")}
    assert {path.name for path in (cache / "wikitext-103").iterdir()} == {"manifest.json", *names}
    assert not list(cache.glob("*.zip"))
    (server.folder / "wikitext.zip").unlink()
    assert read(section("wikitext103")) == found


def test_an_archive_that_is_not_the_published_one_is_refused_and_one_that_is_not_there_said(wikitext, cache, monkeypatch):
    wikitext()
    monkeypatch.setattr(plain_text, "WIKITEXT103_SHA256", "0" * 64)
    with pytest.raises(UserError, match="wikitext-103-v1.zip is not the archive that was published: remove it"):
        read(section("wikitext103"))
    (cache / "wikitext-103-v1.zip").unlink()
    monkeypatch.setattr(plain_text, "WIKITEXT103", "http://127.0.0.1:9/wikitext.zip")
    with pytest.raises(UserError, match="could not download .*wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens into "):
        read(section("wikitext103"))
    assert not (cache / "wikitext-103").exists()


def test_an_archive_that_cannot_be_unpacked_leaves_nothing_behind(wikitext, cache):
    for spoil in (lambda: wikitext(valid=None), lambda: wikitext.put(b"no archive")):
        spoil()
        with pytest.raises(UserError, match=r"wikitext-103-v1.zip: damaged archive \(.*\); remove it and start again"):
            read(section("wikitext103"))
        assert not (cache / "wikitext-103").exists()
        (cache / "wikitext-103-v1.zip").unlink()


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "val.txt", "test.txt"),
        ("train.txt.gz", "valid.txt", "test.txt.gz"),
        ("wap.train.txt", "wap.valid.txt", "wap.test.txt"),
        ("wiki.train.tokens", "wiki.valid.tokens.gz", "wiki.test.tokens"),
    ],
    ids=lambda names: names[0],
)
def test_a_folder_may_have_its_files_by_several_names(tmp_path, names):
    for name, text in zip(names, TEXT.values()):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = read(section("folder", tmp_path))
    assert (len(found["train"]), found["val"], found["test"]) == (3, ["d"], ["e <unk>"])


def test_empty_lines_are_none_where_each_is_a_sample(tmp_path):
    (tmp_path / "train.txt").write_text("a\n\nb\n")
    assert plain_text.read_split(section("folder", tmp_path, "line"), "train") == ["a", "b"]
    assert plain_text.read_split(section("folder", tmp_path), "train") == ["a", "", "b"]
    (tmp_path / "val.txt").write_text("\n\n")
    for break_mode in ("line", "none"):
        with pytest.raises(UserError, match="val.txt has no line with text"):
            plain_text.read_split(section("folder", tmp_path, break_mode), "val")


@pytest.mark.parametrize(
    "name, path, message",
    [
        ("folder", "", "data.path is empty: set data.path=FOLDER, with train.txt, val.txt and test.txt in it"),
        ("folder", "absent", "data.path absent is no folder: give one with train.txt"),
        ("war_and_peace", "", "war-and-peace is not there: put wap.train.txt, wap.valid.txt and wap.test.txt there"),
        ("folder", ".", r"must have train.txt or wiki.train.tokens or wap.train.txt, plain or .gz; there is notes.md"),
    ],
)
def test_what_is_not_there_is_said_with_what_to_put_there(tmp_path, monkeypatch, name, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("x\n")
    with pytest.raises(UserError, match=message):
        plain_text.read_split(section(name, path), "train")


def test_the_fingerprint_is_of_the_lines_and_of_where_they_end():
    texts = (["a", "b"], ["a b"], ["ab"], ["b", "a"], ["a", "b", ""])
    assert len({plain_text.fingerprint(lines) for lines in texts}) == len(texts)
    assert plain_text.fingerprint(["ä"]) == hashlib.sha256("ä\n".encode()).hexdigest()
