"""The errors a caller can meet. Each message names what was given, what is allowed and what to do.

    FlyweightError                  anything this package raises on purpose
    ├── UsageError                  the request cannot be carried out as given (exit code 2)
    │   ├── CheckpointError         files that are missing, truncated or lie about themselves
    │   ├── UnsupportedModelError   a well-formed checkpoint of something we do not know
    │   ├── RecipeError             a compression recipe or rule that cannot be applied
    │   ├── DataError               calibration or evaluation text that cannot be used
    │   └── ResourceError           memory or disk that would not suffice
    ├── KernelError                 the native side refused (a capability this CPU lacks, a bad setting)
    ├── NonFiniteError              the model computed NaN or infinity where a token is to be chosen
    └── IntegrityError              accounts that contradict themselves: a fault of this package

This module knows nothing of the rest of the package.
"""

import difflib
from collections.abc import Iterable


class FlyweightError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(FlyweightError):
    """The request cannot be carried out as given. The command line prints it in one line and exits with 2."""


class CheckpointError(UsageError):
    """Files of a checkpoint are missing, truncated, or contradict themselves."""


class UnsupportedModelError(UsageError):
    """A well-formed checkpoint of an architecture, option or type this package does not know."""


class RecipeError(UsageError):
    """A compression recipe, or a rule in it, that cannot be applied to this model."""


class DataError(UsageError):
    """Calibration or evaluation text that is empty, too short or malformed."""


class ResourceError(UsageError):
    """Memory or disk that would not suffice; raised before the work where it can be predicted."""


class KernelError(FlyweightError):
    """The native side refused: a capability this CPU lacks or a setting it cannot follow."""


class NonFiniteError(FlyweightError):
    """The logits that a token is to be chosen by hold a NaN or no finite maximum: the weights, or the keys and values
    that were read, are damaged or overflow."""


class IntegrityError(FlyweightError):
    """Accounts that contradict themselves, by a fault of this package; the message names the contradiction."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: ``; did you mean 'x'?``, or an empty string.

    >>> nearest("gptq-int", ["gptq-int4", "int8"])
    "; did you mean 'gptq-int4'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
