"""The archives: verified, read safely, fetched from a (local) server."""

import dataclasses
import gzip
import hashlib
import os
import tarfile

import numpy as np
import pytest
from conftest import Payload

from rdrop_paddle import UserError
from rdrop_paddle.vision import cifar


def unpack(path, folder):
    with tarfile.open(path) as tar:
        for member in tar:
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())


@pytest.mark.parametrize("form", ["tar.gz", "tar", "folder", "its parent"])
def test_archive_and_unpacked_folder_give_the_same(small_cifar, tmp_path, form):
    archive, path = small_cifar()
    images, labels, class_names = cifar.read(archive, path, "train")
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert class_names == ["apple", "bear"] and labels.tolist() == [0, 1] * 20
    first = np.random.default_rng(0).integers(0, 256, [40, 3072], dtype="uint8")[0]
    assert (images[0, 2, 5] == first[[2 * 32 + 5, 1024 + 2 * 32 + 5, 2048 + 2 * 32 + 5]]).all()  # stored by channel
    source = path
    if form == "tar":
        source = tmp_path / "cifar-100-python.tar"
        source.write_bytes(gzip.decompress(path.read_bytes()))
    elif form != "tar.gz":
        unpack(path, tmp_path / "unpacked")
        source = tmp_path / "unpacked" / (archive.folder if form == "folder" else "")
    again, labels_again, _ = cifar.read(archive, source, "train")
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert len(cifar.read(archive, source, "test")[0]) == 20


def test_cifar10s_training_images_are_those_of_its_five_members_in_order(small_cifar, tmp_path):
    archive, path = small_cifar(like=cifar.CIFAR10)
    images, labels, class_names = cifar.read(archive, path, "train")
    assert images.shape == (40, 32, 32, 3) and labels.tolist() == [0, 1] * 20 and class_names == ["apple", "bear"]
    rng = np.random.default_rng(0)
    expected = np.concatenate([rng.integers(0, 256, [8, 3072], dtype="uint8") for _ in range(5)])
    np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(40, 3072), expected)
    assert len(cifar.read(archive, path, "test")[0]) == 20
    decoded = [np.array(array) for array in cifar.read_decoded(archive, str(path), tmp_path, "train")[:2]]
    np.testing.assert_array_equal(decoded[0], images)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_cut_archive_is_an_error(small_cifar, share):
    archive, path = small_cifar()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"cifar-100-python.tar.gz.*(damaged|no member)"):
        cifar.read(archive, path, "train")


def test_a_changed_member_is_an_error_even_when_the_archive_is_whole(small_cifar, tmp_path):
    archive, path = small_cifar()
    unpack(path, tmp_path)
    member = tmp_path / archive.folder / "test"
    content = bytearray(member.read_bytes())
    content[-100] ^= 1
    member.write_bytes(content)
    with pytest.raises(UserError, match="member test: md5"):
        cifar.read(archive, tmp_path, "test")


def test_a_missing_member_is_named(small_cifar, tmp_path):
    archive, path = small_cifar()
    unpack(path, tmp_path)
    (tmp_path / archive.folder / "meta").unlink()
    with pytest.raises(UserError, match="cannot read .*meta"):
        cifar.read(archive, tmp_path, "test")


@pytest.mark.parametrize("official_md5", [True, False])
def test_a_hostile_member_is_not_run(small_cifar, tmp_path, official_md5):
    target = tmp_path / "payload"
    archive, path = small_cifar(Payload(os.mkdir, str(target)))
    if official_md5:  # stopped by the checksum
        archive, message = cifar.CIFAR100, "md5"
    else:  # were the checksum broken, stopped by the unpickler
        message = "refused, its pickle asks for posix.mkdir"
    with pytest.raises(UserError, match=message):
        cifar.read(archive, path, "train")
    assert not target.exists()


def test_images_are_decoded_once_and_mapped_from_then_on(small_cifar, tmp_path, monkeypatch):
    archive, path = small_cifar()
    images, labels, class_names = cifar.read(archive, path, "train")
    name = f"{archive.folder}-train-{archive.md5['train']}"
    (tmp_path / "decoded" / f"{name}.part").mkdir(parents=True)  # left by a process that was killed
    decodings = []
    monkeypatch.setattr(cifar, "read", lambda *given, read=cifar.read: decodings.append(1) or read(*given))
    for _ in range(2):
        mapped, labels_again, class_names_again = cifar.read_decoded(archive, str(path), tmp_path, "train")
        assert isinstance(mapped, np.memmap) and not mapped.flags.writeable and class_names_again == class_names
        np.testing.assert_array_equal(mapped, images)
        np.testing.assert_array_equal(labels_again, labels)
    assert len(decodings) == 1
    assert len(cifar.read_decoded(archive, str(path), tmp_path, "test")[0]) == 20


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "classes.json", "manifest.json"])
def test_what_was_decoded_is_verified_and_written_anew_when_damaged(name, small_cifar, tmp_path):
    archive, path = small_cifar()
    _, labels, class_names = cifar.read_decoded(archive, str(path), tmp_path, "train")
    (file,) = (tmp_path / "decoded").glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = cifar.read_decoded(archive, str(path), tmp_path, "train")
    np.testing.assert_array_equal(again[0], cifar.read(archive, path, "train")[0])
    assert again[1].tolist() == labels.tolist() and again[2] == class_names
    content[len(content) // 2] ^= 1
    assert file.read_bytes() == content


def test_images_are_read_where_nothing_can_be_written(small_cifar, tmp_path):
    archive, path = small_cifar()
    (tmp_path / "decoded").write_bytes(b"no folder")
    images, labels, _ = cifar.read_decoded(archive, str(path), tmp_path, "train")
    assert len(images) == len(labels) == 40


def served(server, small_cifar):
    archive, path = small_cifar()
    path = path.replace(server.folder / path.name)
    return dataclasses.replace(archive, url=f"{server.url}/{path.name}", archive_md5=hashlib.md5(path.read_bytes()).hexdigest())


def test_an_absent_archive_is_downloaded_once_and_verified(server, small_cifar, tmp_path, capfd):
    archive = served(server, small_cifar)
    root = tmp_path / "cache" / "rdrop"
    path = cifar.locate(archive, "", root)
    assert path == root / "cifar-100-python.tar.gz"
    assert len(cifar.read(archive, path, "test")[0]) == 20
    output = capfd.readouterr()
    assert f"downloading {archive.url}" in output.err and "100%" in output.err
    (server.folder / path.name).unlink()
    assert cifar.locate(archive, "", root) == path  # no second download


@pytest.mark.parametrize("fault", ["wrong checksum", "not found", "no server"])
def test_a_failed_download_says_which_file_to_put_where(server, small_cifar, tmp_path, fault):
    archive = served(server, small_cifar)
    if fault == "wrong checksum":
        archive = dataclasses.replace(archive, archive_md5="0" * 32)
    elif fault == "not found":
        (server.folder / archive.file_name).unlink()
    else:
        archive = dataclasses.replace(archive, url=f"http://127.0.0.1:9/{archive.file_name}")
    with pytest.raises(UserError, match="could not download .*: put cifar-100-python.tar.gz at ") as error:
        cifar.locate(archive, "", tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written stays


def test_a_path_that_does_not_exist_is_not_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"data.path .*typo.tar.gz does not exist"):
        cifar.locate(cifar.CIFAR100, str(tmp_path / "typo.tar.gz"), tmp_path)


@pytest.mark.real
def test_the_real_archive(real_data):
    images, labels, class_names = cifar.read(cifar.CIFAR100, real_data / "cifar-100-python.tar.gz", "test")
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [100] * 100
    assert class_names[0] == "apple" and class_names[99] == "worm"
