"""Every kind of file that must be refused, with the words of the refusal. Used in process and under an audit hook."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from checkpoint_files import Evil, forge, fragment, pickled_dict, replace_member, seal, tensor_opcodes

from rlox import checkpoint

P2 = b"\x80\x02"


def evil_pickles(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Return pickles to plant as data.pkl, each with what the refusal must say."""
    evil, command = Evil(canary), f"touch {canary}"
    text = fragment(command)
    return {
        "os.system": (pickle.dumps(evil, 2), "unsafe content: posix.system"),
        "os.system in a dict": (pickle.dumps({"w": [evil]}, 2), "unsafe content: posix.system"),
        "protocol 0": (pickle.dumps(evil, 0), "unsafe content: posix.system"),
        "protocol 4": (pickle.dumps(evil, 4), "unsafe content: posix.system"),
        "stack global": (P2 + b"\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R.", "unsafe content: posix.system"),
        "stack global of unicode": (
            P2 + fragment("posix") + fragment("system") + b"\x93" + text + b"\x85R.",
            "unsafe content: posix.system",
        ),
        "inst": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "unsafe content: os.system"),
        "inst in protocol 2": (P2 + b"(" + text + b"ios\nsystem\n.", "unsafe content: os.system"),
        "obj": (P2 + b"(ccollections\nOrderedDict\no.", "unsafe content: pickle opcode OBJ"),
        "newobj": (P2 + b"ccollections\nOrderedDict\n)\x81.", "unsafe content: pickle opcode NEWOBJ"),
        "build": (pickled_dict(tensor_opcodes() + b"}b"), "unsafe content: pickle opcode BUILD"),
        "extension": (P2 + b"\x82\x01.", "unsafe content: copyreg.extension-1"),
        "old persistent id": (b"Pfoo\n.", "unsafe content: pickle opcode PERSID"),
        "eval": (P2 + b"cbuiltins\neval\n" + text + b"\x85R.", "unsafe content: builtins.eval"),
        "getattr": (P2 + b"c__builtin__\ngetattr\n.", "unsafe content: __builtin__.getattr"),
        "torch.load": (P2 + b"ctorch\nload\n" + text + b"\x85R.", "unsafe content: torch.load"),
        "hub": (P2 + b"ctorch.hub\nload\n" + text + b"\x85R.", "unsafe content: torch.hub.load"),
        "rebuild parameter": (P2 + b"ctorch._utils\n_rebuild_parameter\n.", "unsafe content: torch._utils._rebuild_p"),
        "numpy": (P2 + b"cnumpy._core.multiarray\n_reconstruct\n.", "unsafe content: numpy._core.multiarray._rec"),
        "module to import": (P2 + b"cevil_module\nx\n.", "unsafe content: evil_module.x"),
        "name with escapes": (P2 + b"cbad\x1b[31m\n[/x]\n.", "unsafe content: bad\\x1b[31m.[/x]"),
        "bare name": (pickled_dict(b"ctorch\nFloatStorage\n"), "unsafe content: torch.FloatStorage"),
        "storage of its own size": (
            pickled_dict(b"ctorch\nFloatStorage\n" + fragment(10**12) + b"\x85R"),
            "unsafe content: a call of torch.FloatStorage",
        ),
        "hooks with content": (
            pickled_dict(b"ccollections\nOrderedDict\n]\x85R"),
            "unsafe content: a call of collections.OrderedDict",
        ),
        "hooks as a value": (pickled_dict(b"ccollections\nOrderedDict\n)R"), "unsafe content: a bare storage"),
        "call of a string": (pickled_dict(text + b")R"), "unsafe content: a call of str"),
        "list that holds itself": (P2 + b"]q\x00h\x00a.", "unsafe content: the pickle uses one object in two places"),
        "billion laughs": (
            P2
            + b"]q\x00"
            + b"".join(b"]q%c(h%c" % (i, i - 1) + b"h%c" % (i - 1) * 9 + b"e" for i in range(1, 30))
            + b".",
            "in two places",
        ),
        "reference to text": (pickled_dict(fragment("0") + b"Q"), "unsafe content: a reference to something"),
        "reference to a number": (pickled_dict(fragment(0) + b"Q"), "unsafe content: a reference to something"),
        "storage elsewhere": (pickled_dict(tensor_opcodes(location="meta")), "unsafe content: a reference"),
        "storage of an unknown type": (
            pickled_dict(tensor_opcodes(kind=b"torch\nQInt8Storage\n")),
            "unsafe content: torch.QInt8Storage",
        ),
        "requires grad": (
            pickled_dict(tensor_opcodes().replace(b"\x89", b"\x88")),
            "unsafe content: a call of torch._utils._rebuild_tensor_v2",
        ),
        "after the end": (pickled_dict(b"N") + pickle.dumps(evil, 2), "unsafe content: bytes after the end"),
        "two objects": (P2 + b"NN.", "unsafe content: objects left over"),
        "open group": (P2 + b"(N.", "unsafe content: objects left over"),
        "nothing": (P2 + b".", "unsafe content: the pickle takes what it did not put"),
        "no pickle": (b"", "its state is not a pickle that torch writes"),
        "unknown opcode": (P2 + b"\xff.", "its state is not a pickle that torch writes"),
        "cut off": (pickled_dict(b"N")[:-1], "its state is not a pickle that torch writes"),
        "argument cut off": (P2 + b"X\xff\xff\xff\x7fabc", "its state is not a pickle that torch writes"),
        "append to a dict": (P2 + b"}Na.", "unsafe content: the pickle changes something that is no list"),
        "item of a tensor": (
            P2 + tensor_opcodes() + b"NNs.",
            "unsafe content: the pickle changes something that is no dict",
        ),
        "key that is a tuple": (P2 + b"})Ns.", "unsafe content: a dict key that is a tuple"),
        "key twice": (P2 + b"}(K\x01NK\x01Nu.", "unsafe content: the dict key 1 is given twice"),
        "key without value": (P2 + b"}(K\x01u.", "unsafe content: a dict with a key but no value"),
        "memo of nothing": (P2 + b"q\x00N.", "unsafe content: the pickle remembers what is not there"),
        "end of no group": (P2 + b"Nt.", "unsafe content: the pickle ends a group that it did not begin"),
        "popped": (P2 + b"NN0.", "unsafe content: pickle opcode POP"),
        "very deep": (P2 + b"]" * 100_000 + b"a" * 99_999 + b".", "is nested more than 64 levels deep"),
        "very deep tuples": (P2 + b")" + b"\x85" * 100_000 + b"Q.", "unsafe content: a reference"),
        "a million dicts": (P2 + b"(" + b"}" * 2_000_000 + b"l.", "more than 1000000 opcodes"),
        "endless name": (
            pickled_dict(b"}" + fragment("k" * 5000) + b"Ns"),
            "is a name of more than 4096 characters",
        ),
        "endless text": (
            P2 + b"](" + fragment("t" * 2**20) + b"q\x00" + b"h\x00" * 17 + b"e.",
            "unsafe content: the pickle repeats its texts without end",
        ),
        "too long": (P2 + b"N" * (16 * 2**20) + b".", "has 16777219 bytes, at most 16777216 are allowed"),
    }


def evil_tensors() -> dict[str, tuple[bytes, str]]:
    """Return pickles with tensors that declare more than the 16 bytes of their storage."""
    larger = "is larger than its storage"
    return {
        "huge shape": (tensor_opcodes(shape=(10**12,)), larger),
        "huge shape of stride 0": (tensor_opcodes(shape=(10**12,), stride=(0,)), larger),
        "shape that overflows": (tensor_opcodes(shape=(2**62, 4), stride=(0, 0)), larger),
        "one element too many": (tensor_opcodes(shape=(5,)), larger),
        "offset beyond": (tensor_opcodes(shape=(4,), offset=1), larger),
        "empty beyond": (tensor_opcodes(shape=(0,), offset=5), larger),
        "stride beyond": (tensor_opcodes(shape=(2,), stride=(4,)), larger),
        "negative offset": (tensor_opcodes(shape=(1,), offset=-1), "has no valid shape"),
        "negative stride": (tensor_opcodes(shape=(2,), stride=(-1,), offset=2), "has no valid shape"),
        "negative shape": (tensor_opcodes(shape=(-1,)), "has no valid shape"),
        "no strides": (tensor_opcodes(shape=(2, 2), stride=()), "has no valid shape"),
        "shape of words": (tensor_opcodes(shape=("a",)), "has no valid shape"),  # type: ignore[arg-type]
        "long offset": (tensor_opcodes(shape=(0,), offset=2**70), "has no valid shape"),
        "large storage": (tensor_opcodes(n=10**12), "is declared with 1000000000000 x float32"),
        "large items": (tensor_opcodes(kind=b"torch\nDoubleStorage\n"), "is declared with 4 x float64"),
        "negative storage": (tensor_opcodes(n=-4), "is declared with -4 x float32"),
        "untyped storage": (
            tensor_opcodes(kind=b"torch.storage\nUntypedStorage\n", n=16),
            "has another dtype than its storage",
        ),
        "storage not there": (tensor_opcodes(key="7"), "storage 7 is not in the file"),
        "storage elsewhere on disk": (tensor_opcodes(key="../../x"), "is not in the file"),
    }


def evil_archives(tmp: Path, canary: Path) -> dict[str, tuple[Callable[[Path], object], str]]:
    """Return writers of zip files that are odd as zip files, with digests that are right where there are some."""
    good = pickled_dict(tensor_opcodes())
    kept = checkpoint.save(tmp / "kept.pt", {"w": torch.ones(4)}, {})

    def extra(*members: tuple[str, bytes]) -> Callable[[Path], object]:
        return lambda path: forge(path, good, members=members)

    def duplicate(path: Path) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return forge(path, good, members=[("archive/data/0", bytes(16))])

    def edited(edit: Callable[[bytes], bytes]) -> Callable[[Path], object]:
        return lambda path: (path.write_bytes(edit(kept.read_bytes())), seal(path))

    def hidden(path: Path) -> object:
        """A second, evil archive inside, which a locator of 64-bit archives points to."""
        data = forge(path, good).read_bytes()
        end = len(data) - 54
        n, length, offset = (
            int.from_bytes(data[end + a : end + b], "little") for a, b in ((10, 12), (12, 16), (16, 20))
        )
        record = b"PK\x06\x06" + (44).to_bytes(8, "little") + bytes(12)
        record += b"".join(x.to_bytes(8, "little") for x in (n, n, length, offset))
        locator = b"PK\x06\x07" + bytes(4) + (7).to_bytes(8, "little") + b"\1\0\0\0"
        path.write_bytes(data[:end] + record + locator + data[end:])
        return seal(path)

    def other_size(path: Path) -> object:
        """A size in the extra field of the directory, which readers of 64-bit archives prefer."""
        data = forge(path, good).read_bytes()
        start = data.index(b"PK\x01\x02")
        name = start + 46 + int.from_bytes(data[start + 28 : start + 30], "little")
        more = b"\x01\x00\x08\x00" + bytes(8)
        data = data[: start + 30] + len(more).to_bytes(2, "little") + data[start + 32 : name] + more + data[name:]
        length = int.from_bytes(data[-42:-38], "little") + len(more)
        path.write_bytes(data[:-42] + length.to_bytes(4, "little") + data[-38:])
        return seal(path)

    return {
        "size elsewhere": (other_size, "has sizes or places of its own"),
        "deflated member": (lambda p: forge(p, good, deflated="archive/data/0"), "member archive/data/0 is compressed"),
        "zip bomb": (
            lambda p: forge(p, good, [bytes(2**28)], deflated="archive/data/0"),
            "member archive/data/0 is compressed",
        ),
        "parent folder": (
            extra(("archive/../../etc/x", b"")),
            "unsafe content: a member is called archive/../../etc/x",
        ),
        "absolute": (extra(("/etc/x", b"")), "unsafe content: a member is called /etc/x"),
        "backslash": (extra(("archive/data\\1", b"")), "unsafe content: a member is called"),
        "other folder": (extra(("other/data/1", b"")), "unsafe content: a member is called other/data/1"),
        "code": (extra(("archive/code/x.py", b"")), "unsafe content: a member is called archive/code/x.py"),
        "constants": (extra(("archive/constants.pkl", b"")), "unsafe content: a member is called"),
        "escapes in a name": (extra(("archive/\x1b[31m", b"")), "a member is called archive/\\x1b[31m"),
        "zero in a name": (edited(lambda d: d.replace(b"archive/version", b"archive/ver\0ion")), "a member is called"),
        "member twice": (duplicate, "unsafe content: two members are called archive/data/0"),
        "same but for case": (extra(("archive/data/00", b""), ("archive/.a", b""), ("archive/.A", b"")), "is called"),
        "member not listed": (
            lambda p: forge(p, good, manifest={"digests": {}}),
            "is damaged: part byteorder is not in its list of digests",
        ),
        "listed, not there": (
            lambda p: forge(p, good, manifest=_manifest_of(kept, {"data/9": "0" * 64})),
            "is damaged: part .data/serialization_id is missing",
        ),
        "swapped part": (
            lambda p: replace_member(kept, p, "data/0", bytes(16)),
            "is damaged: digest mismatch in data/0",
        ),
        "other byte order": (lambda p: forge(p, good, byteorder=b"big"), "another byte order"),
        "bytes in front": (edited(lambda d: b"PK\x03\x04" + d), "unsafe content: "),
        "bytes between": (edited(lambda d: _insert_before_directory(d)), "unsafe content: "),
        "bytes before the end": (edited(lambda d: d[:-54] + b"junk" + d[-54:]), "unsafe content: bytes after the zip"),
        "two directories": (hidden, "unsafe content: two zip directories"),
        "wrong count": (edited(lambda d: d[:-44] + b"\1\0" + d[-42:]), "unsafe content: two zip directories"),
        "encrypted": (
            edited(lambda d: d.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")),
            "is encrypted",
        ),
        "huge directory": (
            edited(lambda d: d[:-42] + b"\xff\xff\xff\x7f" + d[-38:]),
            "zip directory of 2147483647 bytes",
        ),
        "no directory": (
            lambda p: (p.write_bytes(b"PK\x03\x04" + bytes(50) + _end_record()), seal(p)),
            "has no member data.pkl",
        ),
        "TorchScript with digest": (lambda p: _sealed(_torch_script(p)), "unsafe content: a member is called"),
    }


def foreign_files(tmp: Path, canary: Path) -> dict[str, tuple[Callable[[Path], object], str]]:
    """Return writers of files that other programs write, hostile or not."""
    evil = Evil(canary)

    def tar(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            for name, data in (("sys_info", b"\x80\x02}."), ("pickle", pickle.dumps(evil, 2)), ("tensors", b"")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    def zipped(*names: str) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, b"x")

        return write

    def safetensors(path: Path) -> None:
        header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))

    def hdf5(path: Path) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            file["x"] = [1]

    return {
        "pickle 0": (
            lambda p: p.write_bytes(pickle.dumps(evil, 0)),
            "unsafe content: posix.system (it is a Python pickle)",
        ),
        "pickle 2": (
            lambda p: p.write_bytes(pickle.dumps(evil, 2)),
            "unsafe content: posix.system (it is a Python pickle)",
        ),
        "pickle 5": (
            lambda p: p.write_bytes(pickle.dumps(evil, 5)),
            "unsafe content: posix.system (it is a Python pickle)",
        ),
        "plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "is a Python pickle, not an rlox checkpoint"),
        "torch zip": (lambda p: torch.save({"w": evil}, p), "unsafe content: posix.system (it is a PyTorch file"),
        "torch legacy": (
            lambda p: torch.save({"w": evil}, p, _use_new_zipfile_serialization=False),
            "unsafe content: posix.system (it is a PyTorch file of the format before 1.6)",
        ),
        "torch tar": (tar, "unsafe content: posix.system (it is a tar archive"),
        "torch module": (
            lambda p: torch.save(torch.nn.Linear(1, 1), p),
            "unsafe content: torch.nn.modules.linear.Linear",
        ),
        "TorchScript": (_torch_script, "unsafe content: TorchScript code (it is a TorchScript archive)"),
        "torch state": (lambda p: torch.save({"w": torch.ones(1)}, p), "is a PyTorch file that rlox did not write"),
        "empty": (lambda p: p.touch(), "is an empty file"),
        "text": (lambda p: p.write_text("learning_rate = 3e-4\numlaut = 'ü'\n"), "is text, not an rlox checkpoint"),
        "text like a pickle": (lambda p: p.write_text("cat\ndog\n"), "is text, not an rlox checkpoint"),
        "one byte": (lambda p: p.write_bytes(b"N"), "is text, not an rlox checkpoint"),
        "git lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
        "HDF5": (hdf5, "is an HDF5 file, not an rlox checkpoint"),
        "SB3": (zipped("data", "policy.pth", "_stable_baselines3_version"), "is a Stable-Baselines3 model (zip)"),
        "npz": (zipped("a.npy", "b.npy"), "is NumPy arrays (.npz)"),
        "npy": (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "is a NumPy array (.npy)"),
        "zip": (zipped("a.txt"), "is a zip archive, not an rlox checkpoint"),
        "safetensors": (safetensors, "is a safetensors file, not an rlox checkpoint"),
        "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08\0"), "is a gzip file"),
        "noise": (lambda p: p.write_bytes(bytes(range(128, 256)) * 50), "is a file of an unknown kind"),
        "zip magic alone": (lambda p: p.write_bytes(b"PK\x03\x04"), "is a zip archive that is cut off or damaged"),
        "folder": (lambda p: p.mkdir(), "is a folder, not a checkpoint"),
        "pipe": (lambda p: __import__("os").mkfifo(p), "is a device, pipe or socket"),
    }


def write_all(tmp: Path, canary: Path) -> list[tuple[Path, str]]:
    """Write every hostile file and return it with the words of its refusal."""
    written = []
    for name, (pickled, words) in evil_pickles(canary).items():
        written.append((forge(tmp / f"pickle: {name}", pickled), words))
    for name, (tensor, words) in evil_tensors().items():
        written.append((forge(tmp / f"tensor: {name}", pickled_dict(tensor)), words))
    for group, cases in (("archive", evil_archives(tmp, canary)), ("foreign", foreign_files(tmp, canary))):
        for name, (write, words) in cases.items():
            path = tmp / f"{group}: {name}"
            write(path)
            written.append((path, words))
    return written


def _manifest_of(path: Path, more: dict[str, str]) -> dict[str, object]:
    return {"digests": checkpoint.read_manifest(path)["digests"] | more}


def _insert_before_directory(data: bytes) -> bytes:
    start = int.from_bytes(data[-38:-34], "little")
    return data[:start] + b"junk" + data[start:-38] + (start + 4).to_bytes(4, "little") + data[-34:]


def _end_record() -> bytes:
    return b"PK\x05\x06" + bytes(8) + bytes(4) + (54).to_bytes(4, "little") + b"\x20\0" + bytes(32)


def _torch_script(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)).save(str(path))
    return path


def _sealed(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"\x20\0" + bytes(32))
    return seal(path)
