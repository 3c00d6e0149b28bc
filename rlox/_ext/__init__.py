"""Compiled kernels: the row store under the replay ring and the offline datasets, and the draws from it."""

from ..errors import MissingDependencyError

_REBUILD = "rebuild it: `pip install -e .` or `python setup.py build_ext --inplace`"

try:
    from . import columns as columns
    from . import rows as rows
    from . import store as store
# A module built for another NumPy or Python raises ValueError, RuntimeError or AttributeError, not ImportError.
except (ImportError, ValueError, RuntimeError, AttributeError) as error:
    raise MissingDependencyError(f"the compiled rlox._ext cannot be loaded: {error}", hint=_REBUILD) from error
