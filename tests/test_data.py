"""Data: what is read, what is refused in one line, and that batches are a pure function of (seed, step)."""

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import sys
import tarfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from gibbsnet.data import Batches, DataError, DataModule, Draw, Split, files, load, units
from gibbsnet.data.sets import part
from gibbsnet.noise import Noise

RNG = np.random.default_rng(0)
MNIST_FILES = [f"{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]


def refused(*fragments, **arguments):
    """The one line with which `load` refuses the arguments; each fragment must be in it."""
    with pytest.raises(DataError) as caught:
        load(**arguments)
    line = str(caught.value)
    assert "\n" not in line
    for fragment in fragments:
        assert str(fragment) in line
    return line


# Files in their published formats, with few examples.


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return (0x800 + array.ndim).to_bytes(4, "big") + sizes + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, compress: bool = True, n: int = 60) -> dict[str, np.ndarray]:
    arrays = {}
    for name in MNIST_FILES:
        arrays[name] = RNG.integers(0, 256, (n, 28, 28)) if "images" in name else np.arange(n) % 10
        path = root / "MNIST" / "raw" / (name + ".gz" * compress)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(arrays[name])) if compress else idx(arrays[name]))
    return arrays


def write_cifar10(root: Path, n: int = 20) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (6, n, 3072), dtype=np.uint8)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        batch = {"batch_label": name, "labels": [i % 10 for i in range(n)], "data": pixels[k]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels


def write_svhn(folder: Path, n: int = 40) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    x = RNG.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
    y = np.arange(n, dtype=np.uint8)[:, None] % 10 + 1
    for name in ("train", "test"):
        savemat(folder / f"{name}_32x32.mat", {"X": x, "y": y})
    return x


def write_tree(path: Path, names=("a", "b"), each: int = 8, mode: str = "L", size=(6, 5)) -> None:
    for name in names:
        (path / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
            Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path / name / f"{k}.png")


@pytest.fixture
def mnist(tmp_path):
    write_mnist(tmp_path)
    return {"name": "mnist", "root": tmp_path, "download": False, "verify": False, "validation": 10}


@pytest.fixture
def cifar10(tmp_path):
    write_cifar10(tmp_path)
    return {"name": "cifar10", "root": tmp_path, "download": False, "verify": False, "validation": 10}


@pytest.fixture
def svhn(tmp_path):
    write_svhn(tmp_path)
    return {"name": "svhn", "root": tmp_path, "download": False, "verify": False, "validation": 10}


def rows(x: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x)


# Splits and units


def test_digits_are_shared_without_loss_or_overlap():
    data = load("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1221, 216, 360)
    assert (data.shape, data.classes, data.levels) == ((1, 8, 8), 10, 17)
    together = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert rows(together) == rows(torch.from_numpy(load_digits().images).to(torch.uint8)[:, None])
    for split in (data.train, data.validation, data.test):
        shares = split.y.bincount(minlength=10) / len(split)
        assert shares.min() > 0.085 and shares.max() < 0.115


def test_digits_keep_their_labels():
    source = load_digits()
    label = {image.astype(np.uint8).tobytes(): y for image, y in zip(source.images, source.target, strict=True)}
    data = load("digits")
    for split in (data.train, data.validation, data.test):
        assert [label[x.numpy().tobytes()] for x in split.x] == split.y.tolist()


def test_development_is_training_and_validation():
    data = load("digits")
    assert len(data.development) == 1437
    assert torch.equal(data.development.x[1221:], data.validation.x)
    assert torch.equal(data.development.y[:1221], data.train.y)


def test_splits_do_not_change_between_loads_and_follow_the_number_asked_for():
    assert torch.equal(load("digits").validation.x, load("digits").validation.x)
    assert len(load("digits", validation=100).validation) == 100
    assert torch.equal(load("digits", validation=100).test.x, load("digits").test.x)


@pytest.mark.parametrize("taken", [1, 7, 33, 99])
def test_part_takes_each_label_in_proportion(taken):
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    rest, held = part(100, taken, y)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(100))
    assert len(held) == taken
    assert (y[held].bincount(minlength=3) - torch.tensor([0.5, 0.3, 0.2]) * taken).abs().max() <= 1


@pytest.mark.parametrize("validation", [0, -1, 1437])
def test_a_validation_split_must_leave_and_take_something(validation):
    refused("1..1436", name="digits", validation=validation)


def test_units_put_each_level_in_its_own_bin():
    x = torch.arange(17, dtype=torch.uint8).repeat(200, 1)
    spread = units(x, 17, Noise(0))
    assert torch.equal(((spread + 1) / 2 * 17).floor().clamp(max=16).to(torch.uint8), x)
    assert spread.min() >= -1 and spread.max() <= 1 and spread.dtype == torch.float32
    assert len(spread[:, 3].unique()) > 100
    middle = units(x, 17)
    assert torch.allclose(middle[0], torch.linspace(-16 / 17, 16 / 17, 17))
    assert (spread.mean(0) - middle[0]).abs().max() < 4 * (2 / 17) / 12**0.5 / 200**0.5


def test_units_leave_real_values_alone():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(units(x, 0, Noise(0)), x)


# Toys


@pytest.mark.parametrize(("name", "k", "sigma", "variance"), [("ring", 8, 0.02, 0.5), ("grid", 25, 0.05, 8.0)])
def test_toys_are_the_mixtures_they_say(name, k, sigma, variance):
    data = load(name)
    scale = (variance + sigma**2) ** 0.5
    assert (data.shape, data.classes, data.levels, len(data.modes.centres)) == ((2,), k, 0, k)
    assert data.modes.scale == pytest.approx(scale, rel=1e-6) and data.modes.sigma == pytest.approx(sigma / scale)
    n = len(data.train)
    assert n == 20_000 and len(data.validation) == 2_000 and len(data.test) == 10_000
    residual = (data.train.x - data.modes.centres[data.train.y]) / data.modes.sigma
    assert abs(residual.mean()) < 4 / (2 * n) ** 0.5
    assert abs(residual.var() - 1) < 4 * (2 / (2 * n)) ** 0.5
    assert abs((residual.square().sum(1) < 9).float().mean() - 0.98889) < 4 * (0.98889 * 0.01111 / n) ** 0.5
    counts = data.train.y.bincount(minlength=k)
    assert ((counts - n / k) ** 2 / (n / k)).sum() < 3 * k  # chi-square with k - 1 degrees of freedom
    assert data.train.x.var(0).sub(1).abs().max() < 0.05 and data.train.x.mean(0).abs().max() < 0.03
    assert not set(rows(data.train.x)) & set(rows(data.test.x))


def test_toy_centres_in_original_coordinates():
    ring, grid = load("ring").modes, load("grid").modes
    assert torch.allclose((ring.centres * ring.scale).norm(dim=1), torch.ones(8))
    assert {tuple(c) for c in (grid.centres * grid.scale).round().tolist()} == {
        (a, b) for a in (-4, -2, 0, 2, 4) for b in (-4, -2, 0, 2, 4)
    }


# Published files


@pytest.mark.parametrize("compress", [True, False])
def test_mnist_as_published(tmp_path, compress):
    arrays = write_mnist(tmp_path, compress)
    data = load("mnist", root=tmp_path, download=False, verify=False, validation=10)
    assert (data.shape, len(data.train), len(data.validation), data.levels) == ((1, 28, 28), 50, 10, 256)
    assert data.validation.y.bincount().tolist() == [1] * 10
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(arrays["t10k-images-idx3-ubyte"]).to(torch.uint8))
    assert torch.equal(data.test.y, torch.from_numpy(arrays["t10k-labels-idx1-ubyte"]))
    assert rows(data.development.x) == rows(torch.from_numpy(arrays["train-images-idx3-ubyte"]).byte()[:, None])


def test_cifar10_as_published(tmp_path):
    pixels = write_cifar10(tmp_path)
    data = load("cifar10", root=tmp_path, download=False, verify=False, validation=10)
    assert (data.shape, len(data.train), len(data.validation), len(data.test)) == ((3, 32, 32), 90, 10, 20)
    assert torch.equal(data.test.x.flatten(1), torch.from_numpy(pixels[5]))
    assert data.test.y.tolist() == [i % 10 for i in range(20)]
    assert rows(data.development.x) == rows(torch.from_numpy(pixels[:5]).reshape(100, 3, 32, 32))


@pytest.mark.parametrize("below", ["", "svhn", "SVHN"])
def test_svhn_as_published(tmp_path, below):
    x = write_svhn(tmp_path / below)
    data = load("svhn", root=tmp_path, download=False, verify=False, validation=10)
    assert (data.shape, len(data.train), len(data.validation), len(data.test)) == ((3, 32, 32), 30, 10, 40)
    assert data.test.y.tolist() == [(i % 10 + 1) % 10 for i in range(40)]  # label 10 is the digit 0
    assert data.test.x[7, 2, 3, 5] == x[3, 5, 2, 7]


def test_svhn_with_its_extra_images(tmp_path):
    write_svhn(tmp_path)
    x = RNG.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    arguments = {"name": "svhn_extra", "root": tmp_path, "download": False, "verify": False, "validation": 10}
    refused("extra_32x32.mat", "missing", **arguments)
    savemat(tmp_path / "extra_32x32.mat", {"X": x, "y": np.full((5, 1), 3, np.uint8)})
    data = load(**arguments)
    assert len(data.development) == 45 and len(data.test) == 40
    assert set(rows(torch.from_numpy(x.transpose(3, 2, 0, 1).copy()))) <= set(rows(data.development.x))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_an_altered_file_of_the_right_format_is_refused(tmp_path, name, file):
    {"mnist": write_mnist, "cifar10": write_cifar10, "svhn": write_svhn}[name](tmp_path)
    before = (tmp_path / file).read_bytes()
    expected = files.MD5[Path(file).name]
    refused(tmp_path / file, expected, "verify=false", name=name, root=tmp_path, download=True, validation=10)
    assert (tmp_path / file).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "file", "url"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz", "https://"),
        ("cifar10", "cifar-10-python.tar.gz", "https://"),
        ("svhn", "svhn/train_32x32.mat", "http://"),
    ],
)
def test_a_missing_file_is_named(tmp_path, name, file, url):
    refused(tmp_path / file, "missing", url, "download=true", name=name, root=tmp_path, download=False)
    assert not list(tmp_path.iterdir())


def test_truncated_gzip(mnist):
    path = mnist["root"] / "MNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "truncated", **mnist)


def test_truncated_idx(mnist):
    path = mnist["root"] / "MNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    refused(path, "truncated", "[60, 28, 28]", **mnist)


def test_a_file_that_is_no_gzip(mnist):
    path = mnist["root"] / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    path.write_bytes(b"<html>not found</html>")
    refused(path, "damaged", **mnist)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\x03" + bytes(12), idx(np.zeros(60))])
def test_wrong_magic(mnist, content):
    path = mnist["root"] / "MNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    refused(path, "magic", **mnist)


def test_mnist_counts_differ(mnist):
    path = mnist["root"] / "MNIST/raw/train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(59))))
    refused(path.with_name("train-images-idx3-ubyte.gz"), "60 images", "59 labels", **mnist)


def test_mnist_labels_out_of_range(mnist):
    path = mnist["root"] / "MNIST/raw/train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.full(60, 10))))
    refused("labels outside", **mnist)


class Malice:
    """Unpickled, it would run the command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_may_not_run_code(cifar10, tmp_path):
    path = cifar10["root"] / "cifar-10-batches-py/data_batch_3"
    path.write_bytes(pickle.dumps({"data": Malice(f"touch {tmp_path}/ran"), "labels": []}, protocol=2))
    refused(path, "system", **cifar10)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros((3, 3072), np.uint8)}),
        pickle.dumps({"data": np.zeros((3, 3072)), "labels": [0, 1, 2]}),
        pickle.dumps({"data": np.zeros((3, 100), np.uint8), "labels": [0, 1, 2]}),
        pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 10]}),
        pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": ["a", "b", "c"]}),
    ],
)
def test_a_pickle_of_another_kind(cifar10, content):
    path = cifar10["root"] / "cifar-10-batches-py/test_batch"
    path.write_bytes(content)
    refused(path, **cifar10)


def test_a_truncated_pickle(cifar10):
    path = cifar10["root"] / "cifar-10-batches-py/data_batch_2"
    path.write_bytes(path.read_bytes()[:30_000])
    refused(path, **cifar10)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"y": np.ones((4, 1))}, "'X'"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, "'y'"),
        ({"X": np.zeros((4, 3, 32, 32), np.uint8), "y": np.ones((4, 1), np.uint8)}, "(32, 32, 3, n)"),
        ({"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1), np.uint8)}, "uint8"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((5, 1), np.uint8)}, "5 labels"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.zeros((4, 1), np.uint8)}, "1..10"),
    ],
)
def test_a_mat_of_another_kind(svhn, content, why):
    path = svhn["root"] / "test_32x32.mat"
    savemat(path, content)
    refused(path, why, **svhn)


def test_a_truncated_mat(svhn):
    path = svhn["root"] / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:2000])
    refused(path, **svhn)


# Downloads, with a stand-in for pooch: what is asked for, and what a failure says


@pytest.fixture
def pooch(monkeypatch):
    """A pooch whose `retrieve` notes what is asked for and writes what `files` holds, or fails."""

    def retrieve(url, known_hash, fname, path):
        module.asked.append((url, known_hash, Path(path) / fname))
        if fname not in module.files:
            raise OSError("Name or service not known")
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / fname).write_bytes(module.files[fname])

    module = types.ModuleType("pooch")
    module.asked, module.files, module.retrieve = [], {}, retrieve
    monkeypatch.setitem(sys.modules, "pooch", module)
    return module


def test_a_download_that_fails(tmp_path, pooch):
    target = tmp_path / "svhn/train_32x32.mat"
    url = "http://ufldl.stanford.edu/housenumbers/train_32x32.mat"
    refused(target, url, "not known", name="svhn", root=tmp_path)
    assert pooch.asked == [(url, "md5:e26dedcc434d2e4c54c9b2d4a06d8373", target)]


def test_without_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    refused("train-images-idx3-ubyte.gz", "install pooch", name="mnist", root=tmp_path)


def test_only_what_is_missing_is_downloaded(mnist, pooch):
    path = mnist["root"] / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    pooch.files[path.name] = path.read_bytes()
    path.unlink()
    assert len(load(**mnist | {"download": True}).test) == 60
    assert [target for _, _, target in pooch.asked] == [path]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_download_is_checked_before_it_takes_its_place(tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "train_32x32.mat").write_bytes(b"some bytes")
    handler = functools.partial(Quiet, directory=tmp_path / "there")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, target = f"http://127.0.0.1:{server.server_port}/train_32x32.mat", tmp_path / "here" / "train_32x32.mat"
        with pytest.raises(DataError, match="is missing"):
            files.fetch(url, target)
        assert not target.exists()
        monkeypatch.setitem(files.MD5, target.name, hashlib.md5(b"some bytes").hexdigest())
        assert files.fetch(url, target).read_bytes() == b"some bytes"
        server.shutdown()


def test_cifar10_is_taken_out_of_its_archive_and_nothing_is_overwritten(tmp_path, monkeypatch):
    write_cifar10(tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setitem(files.MD5, archive.name, hashlib.md5(archive.read_bytes()).hexdigest())
    gone, mine = tmp_path / "cifar-10-batches-py/test_batch", tmp_path / "cifar-10-batches-py/data_batch_1"
    published = gone.read_bytes()
    gone.unlink()
    mine.write_bytes(published)
    load("cifar10", root=tmp_path, download=False, verify=False, validation=10)
    assert gone.read_bytes() == published and mine.read_bytes() == published
    gone.unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path, "cifar-10-batches-py/test_batch", recursive=False)
    monkeypatch.setitem(files.MD5, archive.name, hashlib.md5(archive.read_bytes()).hexdigest())
    refused("test_batch is no file there", name="cifar10", root=tmp_path, download=False, verify=False, validation=10)
    monkeypatch.setitem(files.MD5, archive.name, "0" * 32)
    refused(archive, "0" * 32, name="cifar10", root=tmp_path, download=False)


# One's own files


def write_npz(path: Path, **arrays) -> dict:
    np.savez(path, **arrays)
    return {"name": "npz", "path": path}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((30, 6, 5), (1, 6, 5)), ((30, 6, 5, 3), (3, 6, 5)), ((30, 3, 6, 5), (3, 6, 5)), ((30, 6, 5, 1), (1, 6, 5))],
)
def test_npz_layouts(tmp_path, shape, expected):
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = load(**write_npz(tmp_path / "a.npz", x=x))
    assert (data.shape, data.classes, data.levels) == (expected, 0, 256)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 3, 3)
    assert data.train.y is None
    want = x.reshape(30, *expected) if expected[0] == 1 or shape[1] == 3 else x.transpose(0, 3, 1, 2)
    assert rows(torch.cat([data.development.x, data.test.x])) == rows(torch.from_numpy(want.copy()))


@pytest.mark.parametrize("names", [np.array([0, 1]), np.array([3, 7]), np.array(["cat", "dog"])])
def test_npz_labels_are_places_among_the_sorted_names(tmp_path, names):
    where = np.arange(40) % 2
    x = np.broadcast_to(where[:, None, None] * 9, (40, 4, 4)).astype(np.uint8)
    data = load(**write_npz(tmp_path / "a.npz", images=x, labels=names[where][:, None]))
    assert data.classes == 2 and data.test.y.bincount().tolist() == [2, 2]
    for split in (data.train, data.validation, data.test):
        assert torch.equal(split.x[:, 0, 0, 0], (split.y * 9).byte())


def test_npz_with_its_own_test_set(tmp_path):
    x = RNG.integers(0, 256, (50, 4, 4), dtype=np.uint8)
    arrays = dict(images=x[:40], labels=np.arange(40) % 2, test_images=x[40:], test_labels=np.arange(10) % 3)
    data = load(**write_npz(tmp_path / "a.npz", **arrays))
    assert (len(data.train), len(data.validation), data.classes) == (36, 4, 3)
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(x[40:])) and data.test.y.tolist() == [0, 1, 2] * 3 + [0]
    refused("test set", **write_npz(tmp_path / "b.npz", **arrays | {"test_images": np.zeros((10, 5, 5), np.uint8)}))


U8 = np.zeros((20, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"pictures": U8}, "pictures"),
        ({"images": U8.astype(np.float32)}, "float32"),
        ({"images": U8.astype(object)}, "Object arrays"),
        ({"images": U8[0]}, "(4, 4)"),
        ({"images": np.zeros((20, 4, 4, 2), np.uint8)}, "(20, 4, 4, 2)"),
        ({"images": np.zeros((20, 3, 4, 3), np.uint8)}, "(20, 3, 4, 3)"),
        ({"images": U8, "labels": np.zeros(19, int)}, "(19,)"),
        ({"images": U8, "labels": np.zeros(20)}, "float64"),
        ({"images": U8, "labels": np.arange(20) % 3 - 1}, "label -1: expected integers of at least 0"),
        ({"images": U8[:19]}, "at least 20"),
        ({"images": U8[:, :, :0]}, "(20, 1, 4, 0), expected at least a pixel"),
        ({"images": U8, "test_images": U8[:1]}, "test_images holds 1: at least 2 are needed"),
        ({"images": U8, "test_images": U8[:0]}, "test_images holds 0: at least 2 are needed"),
    ],
)
def test_npz_refused(tmp_path, arrays, why):
    path = tmp_path / "a.npz"
    refused(path, why, **write_npz(path, **arrays))


def test_npz_damaged_or_missing(tmp_path):
    path = tmp_path / "a.npz"
    refused(path, "missing", name="npz", path=path)
    write_npz(path, images=U8)
    path.write_bytes(path.read_bytes()[:100])
    refused(path, "cannot be read", name="npz", path=path)
    np.save(tmp_path / "a.npy", U8)
    refused("a.npy", "cannot be read", name="npz", path=tmp_path / "a.npy")


def test_folder_classes_and_pixels(tmp_path):
    write_tree(tmp_path, ("cat", "ant"), each=20)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "cat" / "._0.png").write_text("a companion file of another system")
    write_tree(tmp_path, (".thumbnails", "cat/.checkpoints"), each=3)
    data = load("folder", path=tmp_path)
    assert (data.shape, data.classes, data.levels) == ((1, 5, 6), 2, 256)
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 4, 4)
    label = {
        np.asarray(Image.open(f)).tobytes(): ["ant", "cat"].index(f.parent.name)
        for f in tmp_path.glob("[!.]*/[0-9]*.png")
    }
    for split in (data.train, data.validation, data.test):
        assert [label[x.numpy().tobytes()] for x in split.x] == split.y.tolist()
        assert split.y.bincount().tolist() == [len(split) // 2] * 2


def test_a_class_may_be_a_link_and_a_circle_ends(tmp_path):
    write_tree(tmp_path / "mine", ["ant"], each=20)
    write_tree(tmp_path / "elsewhere", ["dogs"], each=20)
    (tmp_path / "mine" / "bee").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "mine" / "ant" / "up").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "ant" / "across").symlink_to(tmp_path / "mine" / "bee")
    (tmp_path / "elsewhere" / "dogs" / "back").symlink_to(tmp_path / "mine" / "ant")
    data = load("folder", path=tmp_path / "mine")
    assert data.classes == 2 and len(data.train) + len(data.validation) + len(data.test) == 40


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path / "a.npz", images=np.zeros((20, 3, 4), np.uint8))
    data = DataModule("npz", path="~/a.npz", batch_size=4)
    data.setup()
    assert data.shape == (1, 3, 4)


def test_folder_without_classes(tmp_path):
    write_tree(tmp_path, [""], each=20)
    assert load("folder", path=tmp_path).train.y is None


def test_folder_channels(tmp_path):
    write_tree(tmp_path, ["gray"], each=20)
    assert load("folder", path=tmp_path).shape == (1, 5, 6)
    write_tree(tmp_path, ["colour"], mode="RGB")
    assert load("folder", path=tmp_path).shape == (3, 5, 6)
    assert load("folder", path=tmp_path, channels=1).shape == (1, 5, 6)
    refused("channels", name="folder", path=tmp_path, channels=2)


def test_folder_of_several_sizes(tmp_path):
    write_tree(tmp_path, ["a"], each=10)
    write_tree(tmp_path, ["b"], each=10, size=(7, 5))
    refused("b/0.png", "image_size", name="folder", path=tmp_path)
    assert load("folder", path=tmp_path, image_size=4).shape == (1, 4, 4)
    refused("image_size", name="folder", path=tmp_path, image_size=-4)


def test_folder_crops_at_the_centre(tmp_path):
    stripes = np.repeat(np.array([0, 100, 100, 0], np.uint8)[None], 2, 0)
    (tmp_path / "a").mkdir()
    for k in range(20):
        Image.fromarray(stripes).save(tmp_path / "a" / f"{k}.png")
    assert load("folder", path=tmp_path, image_size=2).train.x.unique().tolist() == [100]


def test_folder_refused(tmp_path):
    refused(tmp_path / "none", "missing", name="folder", path=tmp_path / "none")
    refused(tmp_path, "no images", name="folder", path=tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    refused(tmp_path, "no images", name="folder", path=tmp_path)
    write_tree(tmp_path, each=4)
    refused(tmp_path, "at least 20", name="folder", path=tmp_path)


@pytest.mark.parametrize("keep", [0, 40, 70])
def test_folder_with_a_corrupt_image(tmp_path, keep):
    write_tree(tmp_path)
    bad = tmp_path / "b" / "3.png"
    bad.write_bytes(bad.read_bytes()[:keep])
    refused(bad, "cannot be read", name="folder", path=tmp_path)


def test_folder_with_deep_pixels_or_a_stray_image(tmp_path):
    write_tree(tmp_path)
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(tmp_path / "b" / "deep.png")
    refused("deep.png", "8 bits", name="folder", path=tmp_path)
    (tmp_path / "b" / "deep.png").rename(tmp_path / "stray.txt")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "stray.png")
    refused(tmp_path / "stray.png", "beside", name="folder", path=tmp_path)


# Arguments


def test_arguments_that_cannot_be():
    refused("digits", name="digit")
    refused("no data set 'zzz'", name="zzz")
    refused("path", name="npz")
    refused("path", name="digits", path="a.npz")
    refused("image_size", name="digits", image_size=8)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": -1}, {"steps": 0}])
def test_batches_that_cannot_be(arguments):
    with pytest.raises(DataError, match="positive"):
        DataModule("digits", **arguments)


def test_a_batch_larger_than_the_training_set():
    with pytest.raises(DataError, match=r"1222.*1221"):
        DataModule("digits", batch_size=1222).setup()
    DataModule("digits", batch_size=1221).setup()


def test_a_batch_that_ranks_cannot_share():
    module = DataModule("digits", batch_size=100)
    module.trainer = types.SimpleNamespace(world_size=3, global_rank=0)
    with pytest.raises(DataError, match="3 processes"):
        module.setup()


# Batches


def test_an_epoch_visits_each_example_at_most_once_and_epochs_differ():
    draws = [draw.indices for draw in Batches(105, 10, 20, seed=0)]
    first, second = torch.cat(draws[:10]), torch.cat(draws[10:])
    assert len(first.unique()) == len(second.unique()) == 100
    assert not torch.equal(first, second)
    assert first.min() >= 0 and first.max() < 105 and len(draws) == 20


def test_batches_are_a_function_of_seed_and_step():
    def indices(seed, start):
        return [(d.step, d.indices.tolist()) for d in Batches(105, 10, 33, seed, lambda: start)]

    assert indices(0, 0) == indices(0, 0) != indices(1, 0)
    for start in (1, 10, 17, 33):
        assert indices(0, start) == indices(0, 0)[start:]
    assert len(Batches(105, 10, 33, 0, lambda: 17)) == 33


def test_ranks_share_the_global_batch():
    one = [d.indices for d in Batches(50, 12, 9, 0)]
    four = [[d.indices for d in Batches(50, 12, 9, 0, rank=r, ranks=4)] for r in range(4)]
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(*four, one, strict=True))


def states(module, split="train"):
    loader = module.train_dataloader() if split == "train" else module.val_dataloader()
    return [module.transfer_batch_to_device(draw, torch.device("cpu")) for draw in loader]


def test_ranks_see_the_pixels_and_noise_of_one_process():
    def run(rank, ranks):
        module = DataModule("digits", batch_size=20, steps=3)
        module.trainer = types.SimpleNamespace(world_size=ranks, global_rank=rank, global_step=0)
        module.setup()
        return states(module)

    one, left, right = run(0, 1), run(0, 2), run(1, 2)
    for whole, a, b in zip(one, left, right, strict=True):
        assert len(a["x"]) == 10
        assert torch.equal(whole["x"], torch.cat([a["x"], b["x"]]))
        assert torch.equal(whole["y"], torch.cat([a["y"], b["y"]]))


@pytest.mark.parametrize("resident", [True, False])
def test_states_are_the_examples_in_units(resident):
    module = DataModule("digits", batch_size=50, steps=2, resident=resident)
    module.setup()
    for draw, state in zip(module.train_dataloader(), states(module), strict=True):
        assert state["x"].shape == (50, 1, 8, 8) and state["x"].dtype == torch.float32
        levels = ((state["x"] + 1) / 2 * 17).floor().clamp(max=16).byte()
        assert torch.equal(levels, module.data.train.x[draw.indices])
        assert torch.equal(state["y"], module.data.train.y[draw.indices]) and state["y"].dtype == torch.int64


def test_noise_depends_on_the_seed_and_the_step_alone():
    def x(seed, step):
        module = DataModule("digits", seed=seed)
        module.setup()
        return module.transfer_batch_to_device(Draw("train", step, torch.arange(50)), torch.device("cpu"))["x"]

    assert torch.equal(x(0, 0), x(0, 0))
    assert not torch.equal(x(0, 0), x(0, 1)) and not torch.equal(x(0, 0), x(1, 0))


def test_validation_is_whole_in_order_and_always_the_same():
    a, b = DataModule("digits", batch_size=100, seed=0), DataModule("digits", batch_size=100, seed=1)
    a.setup(), b.setup()
    for first, second in zip(states(a, "validation"), states(b, "validation"), strict=True):
        assert torch.equal(first["x"], second["x"])
    assert [len(state["x"]) for state in states(a, "validation")] == [100, 100, 16]
    assert torch.equal(torch.cat([state["y"] for state in states(a, "validation")]), a.data.validation.y)


def test_properties():
    module = DataModule("digits")
    module.setup()
    assert (module.shape, module.classes, module.levels) == ((1, 8, 8), 10, 17)
    assert torch.allclose(module.mean, units(module.data.train.x, 17).mean(0), atol=1e-6)
    assert module.mean.shape == module.shape and module.mean.dtype == torch.float32
    ring = DataModule("ring")
    ring.setup()
    assert torch.allclose(ring.mean, ring.data.train.x.mean(0), atol=1e-6)


def test_state_of_a_split_for_evaluation(tmp_path):
    module = DataModule("digits")
    module.setup()
    a, b, c = module.state("test"), module.state(module.data.test), module.state("test", seed=1)
    assert a["x"].shape == (360, 1, 8, 8) and torch.equal(a["y"], module.data.test.y)
    assert torch.equal(a["x"], b["x"]) and not torch.equal(a["x"], c["x"])
    some = module.state("test", torch.tensor([3, 5]))
    assert torch.equal(((some["x"] + 1) / 2 * 17).floor().byte(), module.data.test.x[[3, 5]])
    assert list(module.state(Split(module.data.test.x))) == ["x"]


# With Lightning


class Regression(pl.LightningModule):
    """One weight, one optimiser; notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.shown.append((batch_idx, self.trainer.global_step, batch["y"].tolist(), batch["x"].double().sum().item()))
        return (batch["x"].mean() - self.weight).square()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch["y"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class Stop(pl.Callback):
    """Saves and stops after so many steps."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(steps, stop=None, resume=None, limits=None, **arguments):
    module = Regression()
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[stop] if stop else [], **(limits or {"max_epochs": 1}), **quiet, **arguments
    )
    trainer.fit(module, DataModule("digits", batch_size=200, steps=steps), ckpt_path=resume)
    return module


@pytest.mark.filterwarnings("error:.*resumable.*", "error:.*IterableDataset.*", "error:.*num_workers.*")
@pytest.mark.parametrize("limits", [{"max_epochs": 1}, {"max_steps": 20, "max_epochs": -1}])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path, limits):
    whole = fit(20, limits=limits, val_check_interval=4)
    before = fit(20, Stop(9, tmp_path / "a.ckpt"), limits=limits, val_check_interval=4)
    after = fit(20, resume=tmp_path / "a.ckpt", limits=limits, val_check_interval=4)
    assert [i for i, *_ in whole.shown] == list(range(20))
    assert len(before.shown) == 9
    assert before.shown + after.shown == whole.shown
    assert torch.equal(after.weight, whole.weight)
    assert len(whole.validated) > 2 and len(whole.validated[0]) == 200 and len(whole.validated[1]) == 16


def test_a_finished_run_can_be_extended(tmp_path):
    def steps(n):
        return {"max_steps": n, "max_epochs": -1}

    fit(8, Stop(8, tmp_path / "a.ckpt"), limits=steps(8))
    after, whole = fit(12, resume=tmp_path / "a.ckpt", limits=steps(12)), fit(12, limits=steps(12))
    assert after.shown == whole.shown[8:]
    assert torch.equal(after.weight, whole.weight)


# The published files themselves

REAL = os.environ.get("GIBBSNET_DATA")


@pytest.mark.skipif(not REAL, reason="GIBBSNET_DATA names no folder of published files")
@pytest.mark.parametrize(
    ("name", "sizes", "mean", "labels"),
    [
        ("mnist", (55_000, 5_000, 10_000), 33.3184, [7, 2, 1, 0, 4]),
        ("cifar10", (45_000, 5_000, 10_000), 120.7076, [3, 8, 8, 0, 6]),
    ],
)
def test_published_files(name, sizes, mean, labels):
    data = load(name, root=REAL, download=False)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    pixels = (data.train.x.sum(dtype=torch.float64) + data.validation.x.sum(dtype=torch.float64)).item()
    assert pixels / (data.development.x.numel()) == pytest.approx(mean, abs=0.001)  # .1307 and .4734 of 255
    assert data.test.y[:5].tolist() == labels
    assert data.validation.y.bincount().float().std() < (60 if name == "mnist" else 1e-6)
