"""Compiled functions of plain addresses, kept as machine code: a later process calls them without a
compiler, which takes a second to load, and they 40 ms.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from twin.engine.compiled.cache import SOURCES, cache_directories

Addresses = Any
"""Of arrays of whole numbers or of floats: a ctypes array of pointers."""
Function = Callable[[Addresses, Addresses, Any, Any], int]
"""Takes the addresses of arrays of whole numbers and of arrays of floats, then the address of some
whole numbers and of some floats.
"""
ENGINE = "engine"
"""The name of the compiled engine."""
# No other thread is to see the arrays meanwhile.
_TYPE = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 4)
_SUFFIX = ".code"

# What compiled code calls if it raises or gives memory back, and ours does neither.
_NEVER_CALLED = (
    "NRT_Allocate",
    "NRT_Free",
    "NRT_MemInfo_call_dtor",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)

# Code is mapped as long as its engine is there.
_engines: list[Any] = []


@cache
def machine_code(
    name: str, entry: Callable[[], Callable[..., int]], *, sources: tuple[Path, ...] = SOURCES
) -> Function:
    """Return what *entry* returns as compiled code: that which an earlier process made of *sources*
    on such a processor, or it is compiled now and kept as *name*.
    """
    found = _kept(name, sources)
    if found is None:
        found = _made(entry())
        _keep(name, sources, *found)
    return _TYPE(_mapped(*found))


def has_code(name: str, *, sources: tuple[Path, ...] = SOURCES) -> bool:
    """Tell whether an earlier process kept *name*, made of *sources* on such a processor."""
    # Mostly there is none, and nobody need ask LLVM for the processor.
    if not any(any(each.glob(f"{name}-*{_SUFFIX}")) for each in cache_directories(sources)):
        return False
    try:
        return _kept(name, sources) is not None
    except (ImportError, OSError):  # LLVM cannot be loaded
        return False


def _made(entry: Callable[..., int]) -> tuple[str, bytes]:
    """Return the symbol of *entry* and the code in which it is."""
    import llvmlite.binding as llvm  # noqa: PLC0415, an extra
    import numba  # noqa: PLC0415, an extra
    from numba import types  # noqa: PLC0415, an extra

    whole, real = types.CPointer(types.int64), types.CPointer(types.float64)
    arguments = (types.CPointer(whole), types.CPointer(real), whole, real)
    made = numba.cfunc(types.int64(*arguments), error_model="numpy")(entry)
    module = llvm.parse_assembly(made.inspect_llvm())
    _check_symbols(module)
    return made.native_name, _machine().emit_object(module)


def _check_symbols(module: Any) -> None:
    """Raise RuntimeError if a process without the compiler could not map *module*: LLVM would end
    it.
    """
    own = ctypes.CDLL(None)
    needed = [
        one.name for one in (*module.functions, *module.global_variables) if one.is_declaration
    ]
    missing = [
        name
        for name in needed
        if not (name.startswith("llvm.") or name in _NEVER_CALLED or hasattr(own, name))
    ]
    if missing:
        raise RuntimeError(f"the code of this Numba needs {', '.join(missing)}")


def _kept(name: str, sources: tuple[Path, ...]) -> tuple[str, bytes] | None:
    """Return symbol and code that are kept as *name*, None if there is none, or none that is as it
    was written: what is damaged would take the process with it.
    """
    file = _file_name(name)
    found = (_read(directory / file) for directory in cache_directories(sources))
    return next(filter(None, found), None)


def _read(path: Path) -> tuple[str, bytes] | None:
    try:
        with path.open("rb") as file:
            # Nobody else is to have code run here: the directory may be one of temporary files.
            if os.fstat(file.fileno()).st_uid not in (0, os.getuid()):
                return None
            symbol, digest, code = file.read().split(b"\n", 2)
    except (OSError, ValueError):
        return None
    return (symbol.decode(), code) if digest == _digest(symbol, code) else None


def _keep(name: str, sources: tuple[Path, ...], symbol: str, code: bytes) -> None:
    """Keep them in the first directory that can be written. If there is none this process has them
    anyway.
    """
    file, first = _file_name(name), symbol.encode()
    for directory in cache_directories(sources):
        # Whole or not at all, whoever does the same at this moment.
        part = directory / f"{file}.{os.getpid()}"
        with suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"\n".join((first, _digest(first, code), code)))
            part.replace(directory / file)
            return


@cache
def _file_name(name: str) -> str:
    """Return what a file with the code of *name* for this processor is called."""
    import llvmlite.binding as llvm  # noqa: PLC0415, an extra

    processor = f"{llvm.get_process_triple()} {' '.join(_processor())}"
    return f"{name}-{hashlib.sha256(processor.encode()).hexdigest()[:16]}{_SUFFIX}"


def _digest(symbol: bytes, code: bytes) -> bytes:
    return hashlib.sha256(symbol + code).hexdigest().encode()


def _mapped(symbol: str, code: bytes) -> int:
    """Return the address of *symbol* in *code*, which is mapped into this process."""
    import llvmlite.binding as llvm  # noqa: PLC0415, an extra

    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
    for name in _NEVER_CALLED:
        if llvm.address_of_symbol(name) is None:  # else Numba is there, whose they are
            llvm.add_symbol(name, abort)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address: int = engine.get_function_address(symbol)
    return address


def _machine() -> Any:
    """Return what makes code for this processor, as quick as it can be."""
    import llvmlite.binding as llvm  # noqa: PLC0415, an extra

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name, features = _processor()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=name, features=features, opt=3, jit=True
    )


def _processor() -> tuple[str, str]:
    """Return the name of this processor, and what it can do as far as that is known."""
    import llvmlite.binding as llvm  # noqa: PLC0415, an extra

    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # not told on every platform
        features = ""
    return llvm.get_host_cpu_name(), features
