"""Finding, fetching and checking the files of published data sets."""

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from gibbsnet.data.sets import DataError
from gibbsnet.files import replace

# As published by torchvision (MNIST without .gz: of the same files, decompressed) and http://ufldl.stanford.edu/housenumbers/
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}


def find(root: str | Path, places: Sequence[str], url: str, download: bool) -> Path:
    """The first of the places below root that exists; otherwise the file at the URL, downloaded into the first place."""
    for place in places:
        if (Path(root) / place).is_file():
            return Path(root) / place
    target = Path(root) / places[0]
    if not download:
        raise DataError(f"{target} is missing: put the published file there, or say data.download=true to fetch {url}")
    return fetch(url, target)


def find_member(root: str | Path, member: str, url: str, download: bool) -> Path:
    """The file root/member; otherwise it is taken out of the archive root/(last part of the URL), downloaded if need be."""
    target = Path(root) / member
    if not target.is_file():
        archive = find(root, [Path(url).name], url, download)
        check(archive)
        try:
            # Read, not extracted: nothing of an archive's paths and modes counts, and old Pythons have no filter for them.
            with tarfile.open(archive) as tar:
                if (packed := tar.extractfile(member)) is None:
                    raise tarfile.ReadError(f"{member} is no file there")
                content = packed.read()
            replace(target, lambda draft: draft.write_bytes(content), raced=True)  # other ranks may be looking for it
        except (OSError, EOFError, KeyError, tarfile.TarError) as error:
            raise DataError(f"{archive} does not give {member} ({oneline(error)}): delete or replace it") from error
    return target


def fetch(url: str, target: Path) -> Path:
    """The file at the URL, checked by its MD5 before it takes its place at `target`."""
    try:
        import pooch
    except ImportError as error:
        raise DataError(f"{target} is missing: put {url} there, or install pooch to have it downloaded") from error
    try:
        pooch.retrieve(url, f"md5:{MD5[target.name]}", fname=target.name, path=target.parent)
    except (OSError, ValueError) as error:
        raise DataError(f"{target} is missing and {url} cannot be had ({oneline(error)}): put it there") from error
    return target


def check(path: Path, verify: bool = True) -> Path:
    """The path, if its bytes are the published ones."""
    if verify and (found := md5(path)) != MD5[path.name]:
        raise DataError(
            f"{path} is not the published file: its MD5 is {found}, expected {MD5[path.name]}; "
            "replace it, or say data.verify=false to read it all the same"
        )
    return path


def md5(path: Path) -> str:
    """The MD5 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def oneline(error: BaseException) -> str:
    """What went wrong in one short line, or the error's name where it says nothing."""
    return shorten(str(error), 120, placeholder=" ...") or type(error).__name__
