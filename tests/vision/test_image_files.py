"""Which files of a folder are images, and what is seen in them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from rdrop_paddle import UserError
from rdrop_paddle.vision import data, image_files, prediction
from rdrop_paddle.vision.image_files import fault, open_image, search
from rdrop_paddle.vision.task import ImageClassification


def save(path, colour=(10, 200, 30), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path, **settings)
    return path


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found.images]


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".gif", ".jfif", ".avif", ".webp", ".jp2", ".ppm", ".tga", ".bmp", ".JPG"])
def test_an_image_of_any_format_that_pillow_decodes_is_found_and_read(tmp_path, suffix):
    if suffix not in (".TIFF", ".JPG") and suffix not in image_files.suffixes():
        pytest.skip(f"this Pillow does not know {suffix}")
    path = save(tmp_path / f"photo{suffix}")
    assert search(tmp_path) == ([path], [])
    assert fault(path) is None
    np.testing.assert_allclose(np.asarray(open_image(path))[5, 5], (10, 200, 30), atol=8)  # some are lossy


def test_formats_that_take_another_program_or_hold_no_picture_are_no_images():
    assert not image_files.suffixes() & {".eps", ".ps", ".pdf", ".wmf", ".mpg", ".h5", ".txt", ".json"}


def test_of_several_frames_the_first_is_seen(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("several.gif", "several.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.asarray(open_image(tmp_path / name))[4, 4].tolist() == [255, 0, 0]


def test_a_class_is_searched_to_the_bottom_in_the_order_of_its_paths(tmp_path):
    for name in ("b/deep/er/1.png", "a.png", "b/2.png", "c/3.png", "b/.hidden/4.png", "b/._5.png"):
        save(tmp_path / name)
    found = search(tmp_path)
    assert names(found, tmp_path) == ["a.png", "b/2.png", "b/deep/er/1.png", "c/3.png"] and not found.left_out


def test_linked_folders_are_followed_once_and_no_circle_is(tmp_path):
    top = tmp_path / "flowers" / "train"
    save(top / "rose" / "1.png")
    save(top / "tulip" / "2.png")
    save(tmp_path / "elsewhere" / "3.png")
    (tmp_path / "elsewhere" / "back").symlink_to(top / "rose")  # a circle through a link
    (top / "rose" / "linked").symlink_to(tmp_path / "elsewhere")
    (top / "rose" / "once more").symlink_to(tmp_path / "elsewhere")
    (top / "rose" / "all").symlink_to(top)  # would make roses of tulips
    found = search(top / "rose")
    assert names(found, top / "rose") == ["1.png", "linked/3.png"]
    assert [reason for reason, _ in found.left_out] == [image_files.LINKED_AGAIN] * 3
    (tmp_path / "linked rose").symlink_to(top / "rose")
    assert len(search(tmp_path / "linked rose").images) == 2


@pytest.fixture
def flowers(tmp_path, tiny_config):
    """flowers(*names) -> (folder with these files in train/ and one more of each class there and in val/, a config)."""

    def make(*files, classes=("rose", "tulip")):
        folder = tmp_path / "flowers"
        for name in classes:
            for number in range(8):
                save(folder / "train" / name / f"{number}.png")
            save(folder / "val" / name / "0.png")
        for name in files:
            path = folder / "train" / name
            if path.suffix in image_files.suffixes():
                save(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"no image")
        sizes = ["model.classes=2", "train.batch_size=4", "train.micro_batch_size=4"]
        return folder, tiny_config("data.name=folder", f"data.path={folder}", *sizes)

    return make


def test_a_folder_of_one_class_says_that_there_is_nothing_to_learn(flowers):
    _, config = flowers(classes=["rose"])
    with pytest.raises(UserError, match="flowers has the one class rose: there is nothing to learn; give each class a folder"):
        ImageClassification(config).read_splits()


def test_what_is_left_out_is_told_in_one_line_with_its_kinds_and_the_first(flowers, capsys):
    left_out = ["rose/3.heic", "rose/a/4.HEIC", "tulip/notes.txt", "tulip/README", "stray.png", "rose/.DS_Store"]
    folder, config = flowers("rose/a/9.tif", *left_out)
    assert len(data.load_splits(config.data, "test")["test"].labels) == 2
    assert "left out" not in capsys.readouterr().err
    train, val = data.load_splits(config.data, "train").values()
    assert len(train.labels) + len(val.labels) == 17
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    first = folder / "train" / "rose" / "3.heic"
    assert line == (
        f"left out: 2 .heic, 1 without a suffix, 1 .txt that Pillow does not read ({first} is the first); "
        f"1 in no class folder ({folder / 'train' / 'stray.png'} is the first)"
    )


def test_a_class_of_other_files_alone_is_told_to_be_converted(flowers):
    _, config = flowers("iris/1.heic", "iris/2.heic")
    with pytest.raises(UserError, match=r"train/iris: no images of this class to train on; only 2 .heic .*1.heic .*: save"):
        data.load_splits(config.data, "train")


def test_a_folder_that_cannot_be_read_is_an_error(flowers, monkeypatch):
    _, config = flowers()
    scan = image_files.os.scandir

    def refuse(path):
        if str(path).endswith("tulip"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(image_files.os, "scandir", refuse)
    with pytest.raises(PermissionError, match="tulip"):
        data.load_splits(config.data, "train")


def test_predict_and_training_find_the_same_images(flowers, tmp_path, capsys):
    folder, config = flowers("rose/a/9.tif", "rose/notes.txt")
    save(tmp_path / "elsewhere" / "7.gif")
    (folder / "train" / "tulip" / "linked").symlink_to(tmp_path / "elsewhere")
    trained = [path for images in data.load_splits(config.data, "train").values() for path in images.read(slice(None))]
    capsys.readouterr()
    assert sorted(prediction.find_images([folder / "train"])) == sorted(trained) and len(trained) == 18
    assert "left out: 1 .txt that Pillow does not read" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "L", "RGB", "I;16"])
def test_what_is_transparent_is_seen_on_white(tmp_path, mode):
    shades = np.zeros([4, 6], "uint8")
    shades[:, 3:] = 100  # what is left of it is black and transparent
    image = Image.fromarray(shades.astype("uint16") * 257 if mode == "I;16" else shades)
    settings = {}
    if mode in ("RGBA", "LA", "PA"):
        image = image.convert("LA")
        image.putalpha(Image.fromarray(np.where(shades == 0, 0, 255).astype("uint8")))
        image = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
        if mode == "PA":
            image.putalpha(Image.fromarray(np.where(shades == 0, 0, 255).astype("uint8")))
    else:
        image = image if mode == "I;16" else image.convert(mode)
        settings = dict(transparency=(0, 0, 0) if mode == "RGB" else 0)
    path = tmp_path / ("image.tif" if mode == "PA" else "image.png")
    if mode == "PA":
        image = image.convert("RGBA")
    image.save(path, **settings)
    seen = np.asarray(open_image(path))
    assert seen[0, 0].tolist() == [255, 255, 255] and seen[0, 5].tolist() == [100, 100, 100]


def test_half_transparent_is_half_white_and_opaque_is_itself(tmp_path):
    pixels = np.zeros([1, 2, 4], "uint8")
    pixels[0, 0] = 100, 0, 200, 51  # a fifth of it
    pixels[0, 1] = 100, 0, 200, 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    seen = np.asarray(open_image(tmp_path / "image.png"))[0]
    np.testing.assert_allclose(seen[0], [0.2 * 100 + 0.8 * 255, 0.8 * 255, 0.2 * 200 + 0.8 * 255], atol=1)
    assert seen[1].tolist() == [100, 0, 200]


def photograph(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [64, 64, 3], dtype="uint8")).save(path)
    return path


def broken(folder):
    """Files that are no images, by what is wrong with them."""
    drawing, photo = (photograph(folder / f"whole{suffix}").read_bytes() for suffix in (".png", ".jpg"))
    contents = {"empty.jpg": b"", "page.jpg": b"<html>not found</html>", "cut.png": drawing[:-2000], "cut.jpg": photo[:-2]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.ones([4, 4], "float32")).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return [folder / name for name in (*contents, "float.tif", "gone.png")]


def test_a_header_tells_what_is_no_image(tmp_path):
    for path in broken(tmp_path):
        assert fault(path), path
        with pytest.raises(UserError, match=path.name):
            open_image(path)
    assert fault(tmp_path / "whole.png") is fault(tmp_path / "whole.jpg") is None


def test_what_is_read_all_the_same_is_no_fault(tmp_path):
    whole, photo = save(tmp_path / "whole.png").read_bytes(), photograph(tmp_path / "whole.jpg").read_bytes()
    contents = {"almost.png": whole[:-4], "more.jpg": photo + b"a camera's notes"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        open_image(tmp_path / name)
        assert fault(tmp_path / name) is None


def test_a_sound_file_is_not_decoded(tmp_path, monkeypatch):
    paths = [save(tmp_path / "whole.png"), photograph(tmp_path / "whole.jpg"), save(tmp_path / "whole.gif")]
    monkeypatch.setattr(image_files, "open_image", None)
    assert [fault(path) for path in paths] == [None] * 3


@pytest.mark.parametrize("part, split", [("train", "train"), ("val", "test")])
def test_broken_images_of_any_split_are_named_before_training(flowers, part, split):
    folder, config = flowers()
    task = ImageClassification(config)
    task.read_splits()
    paths = broken(folder / part / "tulip")
    with pytest.raises(UserError, match=r"cannot read the image .*/cut.jpg: .*; nor .*cut.png, .*empty.jpg, 3 more$"):
        ImageClassification(config).read_splits()
    for path in paths:
        path.unlink()
    ImageClassification(config).read_splits()


def test_headers_are_looked_at_once_each_with_a_word_on_how_far(flowers, monkeypatch, capsys):
    folder, config = flowers()
    looked_at = []
    monkeypatch.setattr(image_files, "fault", lambda path: looked_at.append(path))
    monkeypatch.setattr("rdrop_paddle.console.PATIENCE", -1)
    monkeypatch.setattr(data, "HEADERS_AT_ONCE", 5)
    ImageClassification(config).read_splits()
    assert sorted(looked_at) == sorted(folder.rglob("*.png"))
    assert "looking at image 18/18" in capsys.readouterr().err.replace("17/18", "18/18")


def test_a_test_image_that_only_decoding_shows_to_be_broken_is_mended_and_the_run_resumed(flowers, run_tool, tmp_path):
    folder, config = flowers()
    image = folder / "val" / "rose" / "cut.bmp"
    image.write_bytes(save(tmp_path / "whole.bmp").read_bytes()[:300])
    config.train.steps, config.train.warmup_steps, config.train.eval_every = 2, 1, 2
    (tmp_path / "mine.yaml").write_text(config.to_yaml())
    done = run_tool("train.py", "-c", tmp_path / "mine.yaml")
    assert done.returncode == 2 and f"error: cannot read the image {image}" in done.stderr and "update 2/2" in done.stdout
    shutil.copy(tmp_path / "whole.bmp", image)
    done = run_tool("train.py", "-c", tmp_path / "mine.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    assert "resuming after update 2" in done.stdout and "best weights  test" in done.stdout


def test_a_broken_image_ends_a_run_before_there_is_a_run_folder(flowers, run_tool, tmp_path):
    folder, config = flowers()
    image = folder / "val" / "rose" / "1.jpg"
    image.write_bytes(b"<html>")
    (tmp_path / "mine.yaml").write_text(config.to_yaml())
    done = run_tool("train.py", "-c", tmp_path / "mine.yaml")
    assert done.returncode == 2 and f"error: cannot read the image {image}" in done.stderr, done.stderr
    assert not list(tmp_path.glob("output/*")) and "update" not in done.stdout
