"""The former name of `nas.networks.modules`, for code that was written with it. Nothing in this project imports it."""

from nas.networks.modules import *  # noqa: F403
from nas.networks.modules import __all__ as __all__
