"""Build the Cython extensions; everything else about the package is in pyproject.toml.

``RLOX_DEBUG_EXT=1`` builds with every check of Cython on, for the kernel tests.
"""

import os

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("RLOX_DEBUG_EXT") == "1"
KERNELS = ("store", "rows", "columns")
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "cdivision": not DEBUG,
    "nonecheck": DEBUG,
}

extensions = [
    Extension(
        f"rlox._ext.{name}",
        [f"rlox/_ext/{name}.pyx"],
        include_dirs=[numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("RLOX_DEBUG_EXT", str(int(DEBUG)))],
        extra_compile_args=["-O1" if DEBUG else "-O3"],
    )
    for name in KERNELS
]

setup(ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, force=DEBUG))
